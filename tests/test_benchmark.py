"""benchmark.py: a table, JSON, and errors that name the file."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import benchmark
from utils.benchmarks.views import encode
from utils.errors import EXIT_UNUSABLE_INPUT


@pytest.fixture
def photograph_file(tmp_path) -> str:
    path = tmp_path / "photo.jpg"
    path.write_bytes(encode(np.random.default_rng(0).integers(0, 256, (500, 700, 3), np.uint8)))
    return str(path)


def test_json_is_alone_on_standard_output(photograph_file, capsys):
    words = ["--suite=views", f"--image={photograph_file}", "--rounds=2", "--json=-"]
    assert benchmark.main(words) == 0
    report = json.loads(capsys.readouterr().out)
    assert {"bare_decode_ms", "plain_ms", "ours_ms", "speedup", "ratio_to_decode"} <= set(report)
    assert (report["size"], report["rounds"], report["threads"]) == ([700, 500], 2, 1)
    assert report["environment"]["torch"]
    low, high = report["quartiles_ms"]["ours"]
    assert low <= report["ours_ms"] <= high


def test_the_table_shows_the_limit_and_both_implementations(photograph_file, tmp_path, capsys):
    assert (
        benchmark.main(["--suite=views", f"--image={photograph_file}", "--rounds=1", f"--json={tmp_path}/x.json"]) == 0
    )
    output = capsys.readouterr().out
    for word in ("bare_decode", "plain", "ours", "speedup", "ratio_to_decode", "700 x 500"):
        assert word in output
    assert json.loads((tmp_path / "x.json").read_text())["suite"] == "views"


def test_the_table_names_the_photographs_that_were_read(photograph_file, trained, capsys):
    folder = Path(photograph_file).parent
    words = ["--suite=map", f"--checkpoint={trained.best}", f"--photographs={folder}", "--rounds=1"]
    assert benchmark.main(words) == 0
    assert capsys.readouterr().out.splitlines()[1].startswith(f"{folder}; ")


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="only Linux reports the peak of a process")
def test_memory_is_compared_with_the_image_itself(photograph_file, capsys, monkeypatch):
    monkeypatch.setattr("utils.benchmarks.views.MEMORY_MEGAPIXELS", 6)
    assert benchmark.main(["--suite=memory", f"--image={photograph_file}", "--json=-"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["image_mb"] == pytest.approx(18, rel=0.01)
    assert 1 < report["ours_ratio"] < report["plain_ratio"]


def test_scaling_reports_the_ratio_of_every_size(photograph_file, capsys, monkeypatch):
    monkeypatch.setattr("utils.benchmarks.views.SCALING_MEGAPIXELS", (1, 2))
    words = ["--suite=scaling", f"--image={photograph_file}", "--rounds=1", "--backbone=swin_nano", "--json=-"]
    assert benchmark.main(words) == 0
    report = json.loads(capsys.readouterr().out)
    assert set(report["ratio_to_decode"]) == {"1", "2"}
    assert report["largest_ratio_to_decode"] == max(report["ratio_to_decode"].values())


@pytest.mark.parametrize(
    ("model", "names"), [("UIQA", ["aesthetic", "distortion", "salient"]), ("SwinT", ["aesthetic"])]
)
def test_latency_is_reported_with_device_precision_batch_and_memory(
    photograph_file, capsys, monkeypatch, tmp_path, model, names
):
    config = tmp_path / "tiny.yaml"
    views = "crop_size: 64\nresize: 64\nn_fragment: 2\nsalient_patch_dimension: 64\n"
    config.write_text(f"model: {model}\nbackbone: timm:test_resnet\n{views}")
    words = [f"--config={config}"]
    monkeypatch.setattr("utils.benchmarks.latency._cpu_peaks", lambda build, shapes, names: [5e6] * len(names))
    words += [
        "--suite=latency",
        f"--image={photograph_file}",
        "--rounds=1",
        "--device=cpu",
        f"--json={tmp_path}/x.json",
    ]
    assert benchmark.main(words) == 0
    report = json.loads((tmp_path / "x.json").read_text())
    assert (report["device"], report["precision"], report["batch_size"]) == ("cpu", "float32", 1)
    assert report["device_name"]
    for figures in (report["latency_ms"], report["quartiles_ms"], report["peak_memory_mb"]):
        assert list(figures) == [*names, "total"]
    output = capsys.readouterr().out
    assert f"{report['latency_ms']['total']:.2f}" in output
    assert "total 5" in output


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["--suite=latency", "--device=tpu"], "tpu"),
        (["--suite=views", "--config=configs/demo.yaml"], "latency"),
        (["--suite=map"], "--checkpoint"),
    ],
)
def test_a_wrong_command_is_reported_in_one_line(capsys, words, named):
    with pytest.raises(SystemExit) as stopped:
        benchmark.main(words)
    error = capsys.readouterr().err
    assert stopped.value.code == EXIT_UNUSABLE_INPUT
    assert named in error
    assert error.count("\n") == 1


def test_an_image_that_is_not_a_jpeg_is_refused_by_name(tmp_path, capsys):
    Image.new("RGB", (600, 600)).save(tmp_path / "photo.png")
    assert benchmark.main(["--suite=views", f"--image={tmp_path}/photo.png"]) == EXIT_UNUSABLE_INPUT
    assert "photo.png: not a JPEG" in capsys.readouterr().err
    assert benchmark.main(["--suite=views", f"--image={tmp_path}/none.jpg"]) == EXIT_UNUSABLE_INPUT
    assert "none.jpg" in capsys.readouterr().err
