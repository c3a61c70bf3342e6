"""Scoring your own photographs: any mix of arguments, one row per image, and no image stops the others."""

import io
import json
import math
import os
import shutil
import sys
import weakref
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

import predict
from data import datasets
from data.decode import decode_rgb
from data.views import make_views
from utils.checkpoint import load_model
from utils.errors import EXIT_FAILED_IMAGES, EXIT_UNUSABLE_INPUT
from utils.reporting import pictures

ROOT = Path(__file__).parent.parent


def run(trained, *words: str) -> int:
    return predict.main(["--checkpoint", str(trained.best), "--device=cpu", "--num_workers=0", *map(str, words)])


def test_files_folders_and_patterns_mix_and_nothing_is_scored_twice(trained, photographs, tmp_path):
    table = tmp_path / "scores.csv"
    assert run(trained, photographs / "2.png", photographs, f"{photographs}/*.png", "--csv", table) == 0
    images = pd.read_csv(table)["image"].tolist()
    assert [str(photographs / name) for name in ("2.png", "10.png", "below/3.jpg")] == images


def test_a_photograph_scores_the_same_alone_in_a_batch_elsewhere_and_under_another_name(
    trained, photographs, tmp_path, capsys
):
    elsewhere = tmp_path / "elsewhere" / "renamed.png"
    elsewhere.parent.mkdir()
    shutil.copy(photographs / "10.png", elsewhere)

    def score(name: str, *words) -> float:
        capsys.readouterr()
        run(trained, *words, "--json=-")
        rows = json.loads(capsys.readouterr().out)["images"]
        return next(row["score"] for row in rows if row["image"].endswith(name))

    alone = score("10.png", photographs / "10.png")
    assert score("10.png", photographs / "10.png") == alone
    assert score("renamed.png", elsewhere) == alone
    assert score("10.png", photographs, "--batch_size=3") == pytest.approx(alone, abs=1e-5)
    assert score("10.png", photographs, "--batch_size=3", "--num_workers=2") == pytest.approx(alone, abs=1e-5)


def save_sixteen_bit(path, photograph):
    Image.fromarray(photograph[..., 0].astype(np.uint16) * 257).save(path)


def save_rotated(path, photograph):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(photograph).save(path, exif=exif)


USABLE = {
    "20x20.png": lambda path, photo: Image.fromarray(photo[:20, :20]).save(path),
    "300x4000.jpg": lambda path, photo: Image.fromarray(photo).resize((300, 4000)).save(path),
    "3840x828.jpg": lambda path, photo: Image.fromarray(photo).resize((3840, 828)).save(path),
    "6000x4000.jpg": lambda path, photo: Image.fromarray(photo).resize((6000, 4000)).save(path),
    "grey.jpg": lambda path, photo: Image.fromarray(photo).convert("L").save(path),
    "cmyk.jpg": lambda path, photo: Image.fromarray(photo).convert("CMYK").save(path),
    "sixteen_bit.png": save_sixteen_bit,
    "palette.png": lambda path, photo: Image.fromarray(photo).convert("P").save(path),
    "rotated.jpg": save_rotated,
    "rgba.png": lambda path, photo: Image.fromarray(photo).convert("RGBA").save(path),
}
UNUSABLE = {
    "1x60000.png": lambda path, photo: Image.fromarray(photo[:1, :1]).resize((1, 60000)).save(path),
    "empty.jpg": lambda path, photo: path.write_bytes(b""),
    "truncated.jpg": lambda path, photo: (
        Image.fromarray(photo).save(path),
        path.write_bytes(path.read_bytes()[:-3000]),
    ),
    "text.jpg": lambda path, photo: path.write_text("To whom it may concern"),
    "missing.jpg": lambda path, photo: None,
}


def test_every_kind_of_image_scores_and_every_unusable_one_is_one_clear_failure(trained, tmp_path, photograph, capsys):
    for name, save in (USABLE | UNUSABLE).items():
        save(tmp_path / name, photograph)
    table = tmp_path / "scores.csv"
    paths = [tmp_path / name for name in USABLE | UNUSABLE]
    assert run(trained, *paths, "--csv", table, "--num_workers=2") == EXIT_FAILED_IMAGES
    rows = pd.read_csv(table).set_index("image")
    for name in USABLE:
        assert math.isfinite(rows.loc[str(tmp_path / name), "score"]), name
    messages = [line for line in capsys.readouterr().err.splitlines() if line.startswith("failed: ")]
    assert len(messages) == len(UNUSABLE)
    for name in UNUSABLE:
        assert math.isnan(rows.loc[str(tmp_path / name), "score"])
        assert sum(name in message for message in messages) == 1


def test_the_rotation_in_the_file_is_applied(trained, tmp_path, photograph, capsys):
    save_rotated(tmp_path / "rotated.png", photograph)
    Image.fromarray(np.rot90(photograph, -1)).save(tmp_path / "upright.png")
    run(trained, tmp_path / "rotated.png", tmp_path / "upright.png", "--json=-")
    rotated, upright = (row["score"] for row in json.loads(capsys.readouterr().out)["images"])
    assert rotated == pytest.approx(upright, abs=1e-6)


def test_quality_is_the_score_mapped_to_the_mos_scale(trained, photographs, tmp_path):
    run(trained, photographs, "--csv", tmp_path / "scores.csv")
    rows = pd.read_csv(tmp_path / "scores.csv")
    np.testing.assert_allclose(rows["quality"], load_model(trained.best).calibration(rows["score"]), rtol=1e-6)


def test_views_are_drawn_for_every_photograph(trained, photographs, tmp_path):
    shutil.copy(photographs / "2.png", photographs / "below" / "2.png")
    assert run(trained, photographs, "--views", tmp_path / "views") == 0
    assert {path.name for path in (tmp_path / "views").iterdir()} == {
        *("2_views.png", "2_2_views.png", "3_views.png", "10_views.png")
    }


def test_pictures_replace_neither_photographs_nor_each_other(trained, photographs, capsys):
    before = {path: path.read_bytes() for path in photographs.rglob("*.png")}
    assert run(trained, photographs, "--views", photographs, "--map", photographs) == 0
    assert {path.name for path in photographs.iterdir() if path.is_file()} >= {"2_views.png", "2_map.png"}
    assert all(path.read_bytes() == content for path, content in before.items())
    capsys.readouterr()
    photograph = photographs / "2_views.png"
    assert run(trained, photographs / "2.png", photograph, "--views", photographs) == EXIT_UNUSABLE_INPUT
    assert "choose another folder" in capsys.readouterr().err


def test_the_limit_on_pixels_is_the_checkpoints_unless_given(trained, photographs, tmp_path, capsys):
    content = torch.load(trained.best, weights_only=True)
    content["view_spec"] |= {"max_pixels": 1000}
    torch.save(content, tmp_path / "small.pth")
    words = [str(photographs / "2.png"), f"--checkpoint={tmp_path}/small.pth", "--num_workers=0", "--device=cpu"]
    assert predict.main(words) == EXIT_FAILED_IMAGES
    assert "--max_pixels 1000" in capsys.readouterr().err
    assert predict.main([*words, "--max_pixels=10000000"]) == 0


def test_a_table_does_not_go_to_standard_output(trained, photographs, capsys):
    with pytest.raises(SystemExit):
        run(trained, photographs, "--csv", "-")
    assert "--json -" in capsys.readouterr().err


def test_quality_maps_are_drawn_for_every_photograph_that_was_scored(trained, photographs, tmp_path):
    (photographs / "text.jpg").write_text("no photograph")
    assert run(trained, photographs, "--map", tmp_path / "maps") == EXIT_FAILED_IMAGES
    assert {path.name for path in (tmp_path / "maps").iterdir()} == {"2_map.png", "3_map.png", "10_map.png"}


def test_photographs_are_decoded_and_cut_once_for_scores_views_and_maps(trained, photographs, tmp_path, monkeypatch):
    calls = []
    for name in ("to_rgb", "make_views"):
        original = getattr(datasets, name)
        monkeypatch.setattr(
            datasets, name, lambda *args, name=name, original=original: calls.append(name) or original(*args)
        )
    assert run(trained, photographs, "--views", tmp_path / "views", "--map", tmp_path / "maps") == 0
    assert sorted(calls) == ["make_views"] * 3 + ["to_rgb"] * 3
    assert len(list(tmp_path.glob("*/*_views.png"))) == len(list(tmp_path.glob("*/*_map.png"))) == 3


def test_pictures_show_the_views_and_maps_that_were_scored(trained, photographs, tmp_path, monkeypatch):
    drawn = {}
    monkeypatch.setattr(
        pictures, "draw_views", lambda image, views, spec, path: drawn.update({path.name: (image, views)})
    )
    monkeypatch.setattr(
        pictures,
        "draw_quality_map",
        lambda image, views, spec, maps, branch_means, title, path: drawn.update({path.name: (maps, title)}),
    )
    table = tmp_path / "scores.csv"
    assert run(trained, photographs, "--views", tmp_path, "--map", tmp_path, "--csv", table, "--fragment_draws=2") == 0
    spec = load_model(trained.best).view_spec
    for row in pd.read_csv(table).to_dict("records"):
        path = Path(row["image"])
        image, views = drawn[f"{path.stem}_views.png"]
        np.testing.assert_array_equal(image, decode_rgb(path))
        expected = make_views(image, spec, spec.evaluation_fractions())
        assert all(torch.equal(views[name], expected[name]) for name in expected)
        maps, title = drawn[f"{path.stem}_map.png"]
        for name in expected:
            assert maps[name].mean() == pytest.approx(row[f"points_{name}"], abs=1e-5)
        error, quality = row["sampling_error"], row["quality"]
        assert title == f"{path.name}: score {row['score']:.3f} \u00b1 {error:.3f} (2 draws), quality {quality:.3f}"


@pytest.mark.parametrize("workers", [0, 2])
def test_drawing_holds_a_few_photographs_in_memory_however_many_there_are(
    workers, trained, photographs, tmp_path, monkeypatch
):
    alive, most = weakref.WeakSet(), []

    class Tracked(np.ndarray):
        __hash__ = object.__hash__

    original = datasets.to_rgb

    def tracked(*args):
        image = original(*args).view(Tracked)
        alive.add(image)
        most.append(len(alive))
        return image

    monkeypatch.setattr(datasets, "to_rgb", tracked)
    monkeypatch.setattr(pictures, "draw_views", lambda *_: None)
    paths = [shutil.copy(photographs / "2.png", tmp_path / f"{number}.png") for number in range(40)]
    assert run(trained, *paths, "--views", tmp_path / "views", f"--num_workers={workers}") == 0
    assert len(most) == 40
    assert max(most) <= 6 * predict.DRAWN_BATCH


def test_draws_are_averaged_and_their_spread_is_reported(trained, photographs, tmp_path, capsys):
    table = tmp_path / "scores.csv"
    assert run(trained, photographs, "--fragment_draws=5", "--csv", table, "--map", tmp_path / "maps") == 0
    assert "+-" in capsys.readouterr().out
    rows = pd.read_csv(table)
    assert (rows["sampling_error"] > 0).all()
    np.testing.assert_allclose(rows["sampling_error"], rows["draw_sd"] / np.sqrt(5))


def test_what_each_view_adds_is_written_beside_the_score(trained, photographs, tmp_path):
    run(trained, photographs, "--csv", tmp_path / "scores.csv")
    rows = pd.read_csv(tmp_path / "scores.csv")
    bias = load_model(trained.best).model.effective_weights()[1].item()
    total = rows[["points_aesthetic", "points_distortion", "points_salient"]].sum(axis=1) + bias
    np.testing.assert_allclose(rows["score"], total, atol=1e-5)


def test_a_checkpoint_that_is_not_there_is_named_with_where_to_get_one(capsys):
    assert predict.main(["--checkpoint", "absent.pth", "photo.jpg"]) == EXIT_UNUSABLE_INPUT
    assert "github.com/sunwei925/UIQA" in capsys.readouterr().err


def test_a_folder_or_pattern_without_images_is_named(trained, tmp_path, capsys):
    assert run(trained, tmp_path) == EXIT_UNUSABLE_INPUT
    assert str(tmp_path) in capsys.readouterr().err
    assert run(trained, f"{tmp_path}/*.jpg") == EXIT_UNUSABLE_INPUT
    assert "pattern" in capsys.readouterr().err


def test_arguments_that_cannot_be_used_are_failures_and_the_others_are_scored(trained, photographs, tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    (tmp_path / "loop.jpg").symlink_to("loop.jpg")
    (photographs / "animation.gif").touch()
    bad = [str(tmp_path / "empty"), f"{tmp_path}/*.jpeg", "x" * 300 + ".jpg", str(tmp_path / "loop.jpg")]
    words = [bad[0], photographs, *bad[1:], f"--csv={tmp_path}/scores.csv", f"--json={tmp_path}/scores.json"]
    assert run(trained, *words) == EXIT_FAILED_IMAGES
    rows = pd.read_csv(tmp_path / "scores.csv")
    assert rows["image"].tolist() == [
        bad[0],
        *(str(photographs / n) for n in ("2.png", "10.png", "below/3.jpg")),
        *bad[1:],
    ]
    assert rows["error"].notna().tolist() == rows["score"].isna().tolist() == [True, *[False] * 3, *[True] * 3]
    images = json.loads((tmp_path / "scores.json").read_text())["images"]
    assert [image["image"] for image in images if image["error"]] == bad
    messages = capsys.readouterr().err
    assert messages.count("failed: ") == 4
    assert "skipped 1 files that are not read: 1 .gif" in messages
    with pytest.raises(SystemExit):
        run(trained)
    assert run(trained, photographs, "") == EXIT_UNUSABLE_INPUT


ODD_NAMES = [
    *(b"caf\xe9.png", "\u5199\u771f.png".encode(), b"a\nb.png", b"cr\rx.png", b"\x1b[31mred.png", b"$x$ $HOME.png"),
    b"a\n  9.9999    0.9999  fake.png",
]


@pytest.mark.parametrize("encoding", ["ascii", "cp1252", "utf-8"])
def test_odd_names_are_scored_written_found_again_and_cannot_fake_a_row(
    trained, photograph, tmp_path, monkeypatch, encoding
):
    folder, results = tmp_path / "photographs", tmp_path / "results"
    folder.mkdir()
    for name in ODD_NAMES:
        Image.fromarray(photograph).save(os.fsdecode(os.path.join(os.fsencode(folder), name)), "PNG")
    (folder / "bad\nfailed: other.png").write_text("no photograph")
    stream = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    monkeypatch.setattr(sys, "stdout", stream)
    words = [folder, f"--csv={results}/scores.csv", f"--json={results}/scores.json"]
    pictures = [f"--map={results}"] if encoding == "ascii" else []
    assert run(trained, *words, *pictures) == EXIT_FAILED_IMAGES
    stream.flush()
    lines = stream.buffer.getvalue().decode(encoding).split("\n")
    assert len(lines) == 1 + len(ODD_NAMES) + 1 + 1
    assert not any(sign in line for line in lines for sign in "\r\x1b")
    rows = pd.read_csv(results / "scores.csv")
    names = {os.path.join(os.fsencode(folder), name).decode("utf-8", "surrogateescape") for name in ODD_NAMES}
    expected = {name.encode("utf-8", "backslashreplace").decode() for name in names}
    assert set(rows["image"][rows["score"].notna()]) == expected
    assert {row["image"] for row in json.loads((results / "scores.json").read_bytes())["images"]} == set(rows["image"])
    assert len(list(results.glob("*_map.png"))) == len(ODD_NAMES) * len(pictures)
    monkeypatch.setattr(datasets, "to_rgb", None)  # nothing is decoded again
    assert run(trained, *words, "--resume") == EXIT_FAILED_IMAGES
    assert pd.read_csv(results / "scores.csv").equals(rows)


def test_a_folder_full_of_broken_files_is_a_few_lines(trained, tmp_path, capsys):
    for number in range(30):
        (tmp_path / f"{number}.jpg").touch()
    assert run(trained, tmp_path, f"--csv={tmp_path}/scores.csv") == EXIT_FAILED_IMAGES
    messages = capsys.readouterr().err.splitlines()
    assert len([line for line in messages if line.startswith("failed: ")]) == 10
    assert messages[-1] == f"and 20 more failures: all are in {tmp_path}/scores.csv"
    assert pd.read_csv(tmp_path / "scores.csv")["error"].notna().sum() == 30


def test_the_table_is_on_the_screen_before_json_fails(trained, photographs, tmp_path, monkeypatch, capsys):
    def fail(*_):
        raise OSError(28, "No space left on device", "scores.json")

    monkeypatch.setattr(predict, "write_json", fail)
    assert run(trained, photographs, f"--json={tmp_path}/scores.json") == EXIT_UNUSABLE_INPUT
    captured = capsys.readouterr()
    assert "10.png" in captured.out
    assert "scores.json: No space left on device; make room on the disk" in captured.err


def test_a_picture_that_cannot_be_written_costs_no_score(trained, photographs, tmp_path, capsys):
    pictures = tmp_path / "pictures"
    (pictures / "2_map.png").mkdir(parents=True)
    arguments = [photographs, f"--map={pictures}", f"--csv={tmp_path}/scores.csv"]
    assert run(trained, *arguments) == EXIT_FAILED_IMAGES
    assert "2.png: its picture cannot be written" in capsys.readouterr().err
    assert pd.read_csv(tmp_path / "scores.csv")["score"].notna().all()
    assert {path.name for path in pictures.iterdir()} == {"10_map.png", "2_map.png", "3_map.png"}


def test_a_picture_that_another_rank_could_not_write_counts(trained, photographs, tmp_path, monkeypatch):
    monkeypatch.setattr(
        predict, "all_gather_objects", lambda content: [content, 1] if type(content) is int else [content]
    )
    words = [photographs / "2.png", f"--csv={tmp_path}/scores.csv"]
    assert run(trained, *words, f"--views={tmp_path}") == EXIT_FAILED_IMAGES


@pytest.mark.parametrize("rank", [0, 1])
def test_every_rank_leaves_if_the_table_is_refused_and_one_says_why(
    trained, photographs, tmp_path, monkeypatch, capsys, rank
):
    (tmp_path / "scores.csv.partial").write_text("mine")
    gathered = []
    monkeypatch.setattr(predict, "rank", lambda: rank)
    monkeypatch.setattr(predict, "all_gather_objects", lambda refused: gathered.append(refused) or [True, False])
    words = [photographs, f"--csv={tmp_path}/scores.csv"]
    if rank == 0:
        assert run(trained, *words) == EXIT_UNUSABLE_INPUT
    else:
        with pytest.raises(SystemExit, match=str(EXIT_UNUSABLE_INPUT)):
            run(trained, *words)
    assert gathered == [rank == 0]
    assert ("move it away" in capsys.readouterr().err) is (rank == 0)


def test_two_photographs_whose_names_are_equal_in_a_table_are_a_row_and_a_failure(
    trained, photograph, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    for name in (b"caf\xe9.png", rb"caf\udce9.png"):
        Image.fromarray(photograph).save(os.fsdecode(name))
    for resume in ([], ["--resume"]):
        assert run(trained, ".", "--csv=scores.csv", *resume) == EXIT_FAILED_IMAGES
        assert pd.read_csv("scores.csv")["error"].notna().sum() == 1
        assert len(pd.read_csv("scores.csv")) == 2
        assert "rename it" in capsys.readouterr().err


def test_a_reader_that_closes_the_pipe_costs_no_file(trained, photographs, tmp_path, monkeypatch):
    class ClosedPipe(io.StringIO):
        def write(self, text: str) -> int:
            raise BrokenPipeError

    monkeypatch.setattr(sys, "stdout", ClosedPipe())
    (photographs / "broken.jpg").write_bytes(b"no photograph")
    page = tmp_path / "page.html"
    assert run(trained, photographs, "--json", tmp_path / "s.json", "--report", page) == EXIT_FAILED_IMAGES
    assert len(json.loads((tmp_path / "s.json").read_text())["images"]) == 4
    assert page.stat().st_size


def test_a_resumed_command_is_about_its_own_images(trained, photographs, tmp_path, capsys):
    (photographs / "broken.jpg").write_bytes(b"no photograph")
    table = tmp_path / "scores.csv"
    assert run(trained, photographs / "broken.jpg", photographs / "2.png", "--csv", table) == EXIT_FAILED_IMAGES
    assert run(trained, photographs / "10.png", "--csv", table, "--resume") == 0
    assert "1 of 1 images scored" in capsys.readouterr().err
    assert len(pd.read_csv(table)) == 3


@pytest.mark.parametrize("option", ["--checkpoint", "--onnx", "--calibration"])
def test_an_empty_name_is_no_default(option, photographs, capsys):
    with pytest.raises(SystemExit):
        predict.main([str(photographs), option, ""])
    assert f"{option}: the name of the file is empty" in capsys.readouterr().err


def test_a_checkpoint_without_a_mapping_says_that_quality_is_the_score(trained, photographs, tmp_path, capsys):
    content = torch.load(trained.best, weights_only=True)
    content["calibration"] = {"parameters": None, "fitted_on": "validation", "reason": "4 images"}
    torch.save(content, tmp_path / "own.pth")
    assert predict.main([str(photographs / "2.png"), "--checkpoint", f"{tmp_path}/own.pth", "--device=cpu"]) == 0
    assert "quality is the raw score: mapping not possible (4 images)" in capsys.readouterr().err
