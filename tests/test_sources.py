"""Several data sets at once, from training to the report: each is measured on its own scale."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import export
import test as test_script
import train
from utils.checkpoint import load_checkpoint, load_model
from utils.errors import EXIT_FAILED_IMAGES
from utils.reporting import measures

pytestmark = pytest.mark.xdist_group("sources")  # on one process, or each would train the model


@pytest.fixture(scope="module")
def labels(tiny_dataset, tmp_path_factory):
    """Return a label table of two sources on scales of 0 to 1 and 0 to 100, in two groups each."""
    table = pd.read_csv(tiny_dataset / "uhd-iqa-metadata.csv")
    splits = {"training": "train", "validation": "val", "test": "test"}
    second = np.arange(len(table)) % 2 == 1
    path = tmp_path_factory.mktemp("sources") / "labels.csv"
    pd.DataFrame(
        {
            "image": [str(tiny_dataset / row.set / row.image_name) for row in table.itertuples()],
            "mos": np.where(second, table["quality_mos"] * 100, table["quality_mos"]),
            "split": table["set"].map(splits),
            "source": np.where(second, "hundred", "one"),
            "group": np.where(np.arange(len(table)) % 4 < 2, "a", "b"),
        }
    ).to_csv(path, index=False)
    return path


def arguments(labels, options, folder, *more: str) -> list[str]:
    return [
        *("--database", "csv", "--metadata", str(labels), "--source_column", "source", "--mos_scale", "standardise"),
        *options,
        *("--snapshot", f"{folder}/ckpts", "--logdir", f"{folder}/logs", "--run", "two"),
        *("--num_epochs", "2", "--num_workers", "0", "--device", "cpu", *more),
    ]


@pytest.fixture(scope="module")
def folder(labels, tiny_model_options, tmp_path_factory):
    """Return the folder of a training on both sources."""
    folder = tmp_path_factory.mktemp("two")
    more = ("--pairing", "batch", "--source_weights", "hundred=1,one=2", "--score_scale", "hundred")
    assert train.main(arguments(labels, tiny_model_options, folder, *more)) == 0
    return folder


@pytest.fixture(scope="module")
def evaluated(folder, labels):
    """Return the measures and the predictions of the test split."""
    words = ["--checkpoint", f"{folder}/ckpts/two/best.pth", "--logdir", f"{folder}/logs", "--group_by", "group"]
    assert test_script.main([*words, "--json", f"{folder}/test.json", "--report"]) == 0
    measures = json.loads((folder / "test.json").read_text())
    return measures, pd.read_csv(folder / "logs" / "two" / "predictions_test.csv")


def test_the_history_has_each_source_and_their_mean(folder):
    history = pd.read_csv(folder / "logs" / "two" / "history.csv")
    for name in ("SRCC", "KRCC", "PLCC"):
        np.testing.assert_allclose(history[name], (history[f"{name}_one"] + history[f"{name}_hundred"]) / 2)


def test_scores_have_the_scale_of_one_source(folder):
    loaded = load_model(folder / "ckpts" / "two" / "best.pth")
    assert set(loaded.sources) == {"one", "hundred"}
    source = loaded.sources["hundred"]
    assert 20 < source.mean < 90
    kept = load_checkpoint(folder / "ckpts" / "two" / "best.pth").mos_scale
    assert kept == pytest.approx({"mean": source.mean, "sd": source.sd})


def test_each_source_is_reported_on_its_own_scale(evaluated, folder):
    measures, predictions = evaluated
    assert set(measures["sources"]) == {"one", "hundred"}
    loaded = load_model(folder / "ckpts" / "two" / "best.pth")
    for name, report in measures["sources"].items():
        rows = predictions[predictions["source"] == name]
        assert report["n"] == len(rows)
        assert abs(rows["score"] - loaded.sources[name].mean).max() < 20 * loaded.sources[name].sd
        assert report["raw"]["RMSE"] == pytest.approx(((rows["score"] - rows["mos"]) ** 2).mean() ** 0.5)
        assert set(report["groups"]["measures"]) == {"a", "b"}
        assert (
            f"validation of {name}" in report["val_fitted"]["mapping"]
            or "not possible" in report["val_fitted"]["mapping"]
        )
        assert (folder / "logs" / "two" / f"report_test_{name}.html").is_file()


def test_predictions_can_be_measured_again(evaluated, folder, labels, capsys):
    words = ["--predictions", f"{folder}/logs/two/predictions_test.csv", "--source_column", "source"]
    assert test_script.main([*words, "--json", "-"]) == 0
    again = json.loads(capsys.readouterr().out)
    for name, report in evaluated[0]["sources"].items():
        for measure in ("SRCC", "RMSE"):
            assert again["sources"][name]["raw"][measure] == pytest.approx(report["raw"][measure])


def test_a_model_on_the_scale_of_a_source_scores_as_its_report_does(evaluated, folder):
    loaded = load_model(folder / "ckpts" / "two" / "best.pth")
    assert loaded.for_source("unknown") is loaded
    assert loaded.for_source(None) is loaded
    for name in loaded.sources:
        row = evaluated[1][evaluated[1]["source"] == name].iloc[0]
        result = loaded.for_source(name).score(row["image"], maps=True)
        assert result.score == pytest.approx(row["score"], abs=1e-3)
        for view, points in result.maps.items():
            assert points.mean() == pytest.approx(row[f"points_{view}"], abs=1e-3)


def test_the_curves_of_each_source_are_beside_those_of_their_mean(folder):
    (events,) = (folder / "logs" / "two" / "tensorboard").iterdir()
    for name in ("one", "hundred"):
        assert f"validation/SRCC_{name}".encode() in events.read_bytes()


def test_an_exported_model_keeps_its_sources(folder):
    path = folder / "model.safetensors"
    assert export.main([f"{folder}/ckpts/two/best.pth", "--format", "safetensors", "--out", str(path)]) == 0
    before = load_model(folder / "ckpts" / "two" / "best.pth").sources
    assert load_model(path).sources == {name: replace(source, metrics=None) for name, source in before.items()}


def test_partners_train_on_several_sources_too(labels, tiny_model_options, tmp_path):
    assert train.main(arguments(labels, tiny_model_options, tmp_path)) == 0
    assert (
        load_checkpoint(tmp_path / "ckpts" / "two" / "best.pth").options["score_scale"] == "one"
    )  # of the first image


def test_a_table_given_without_its_column_is_warned_of(folder, labels, capsys):
    words = ["--checkpoint", f"{folder}/ckpts/two/best.pth", "--metadata", str(labels), "--database", "csv"]
    assert test_script.main([*words, "--logdir", f"{folder}/pooled"]) == 0
    assert "give --source_column" in " ".join(capsys.readouterr().err.split())


def test_the_folder_of_the_training_is_not_looked_in_for_another_table(folder, labels, tmp_path, capsys):
    table = pd.read_csv(labels)
    images = [Path(image) for image in table["image"]]
    for number, image in enumerate(images):
        shutil.copy(image, tmp_path / f"{number}.jpg")
    table.assign(image=[f"{number}.jpg" for number in range(len(images))]).to_csv(tmp_path / "other.csv", index=False)
    words = ["--checkpoint", f"{folder}/ckpts/two/best.pth", "--metadata", f"{tmp_path}/other.csv", "--database", "csv"]
    assert test_script.main([*words, "--source_column", "source", "--logdir", f"{tmp_path}/logs"]) == 0


def test_a_group_column_may_be_empty_for_one_source(folder, labels, tmp_path):
    table = pd.read_csv(labels)
    table.assign(group=table["group"].where(table["source"] == "one")).to_csv(tmp_path / "half.csv", index=False)
    words = ["--checkpoint", f"{folder}/ckpts/two/best.pth", "--metadata", f"{tmp_path}/half.csv", "--database", "csv"]
    more = ["--source_column", "source", "--group_by", "group", "--logdir", f"{tmp_path}/logs"]
    assert test_script.main([*words, *more, "--json", f"{tmp_path}/m.json"]) == 0
    sources = json.loads((tmp_path / "m.json").read_text())["sources"]
    assert set(sources["one"]["groups"]["measures"]) == {"a", "b"}
    assert sources["hundred"]["groups"] is None


def test_a_failure_is_reported_with_its_own_source(folder, labels, tmp_path):
    table = pd.read_csv(labels)
    broken = table.index[(table["split"] == "test") & (table["source"] == "one")][0]
    (tmp_path / "broken.jpg").write_text("no photograph")
    table.loc[broken, "image"] = str(tmp_path / "broken.jpg")
    table.to_csv(tmp_path / "labels.csv", index=False)
    words = [
        "--checkpoint",
        f"{folder}/ckpts/two/best.pth",
        "--metadata",
        f"{tmp_path}/labels.csv",
        "--database",
        "csv",
    ]
    more = ["--source_column", "source", "--logdir", f"{tmp_path}/logs", "--json", f"{tmp_path}/m.json"]
    assert test_script.main([*words, *more]) == EXIT_FAILED_IMAGES
    sources = json.loads((tmp_path / "m.json").read_text())["sources"]
    assert [len(sources[name]["failures"]) for name in ("one", "hundred")] == [1, 0]


def test_a_resumed_training_in_proportions_equals_one_that_never_stopped(labels, tiny_model_options, tmp_path):
    words = ["--pairing=batch", "--source_weights=hundred=1,one=2", "--n_fragment=2", "--map_weight=1", "--num_epochs"]
    histories = []
    for name, epochs in (("whole", [2]), ("parts", [1, 2])):
        for number in epochs:
            more = (*words, str(number), "--resume", "auto")
            assert train.main(arguments(labels, tiny_model_options, tmp_path / name, *more)) == 0
        histories.append(pd.read_csv(tmp_path / name / "logs" / "two" / "history.csv"))
    pd.testing.assert_frame_equal(*histories)


def test_a_validation_source_needs_different_opinions(labels, tiny_model_options, tmp_path, capsys):
    table = pd.read_csv(labels)
    same = (table["split"] == "val") & (table["source"] == "one")
    table.assign(mos=table["mos"].where(~same, 0.5)).to_csv(tmp_path / "labels.csv", index=False)
    assert train.main(arguments(tmp_path / "labels.csv", tiny_model_options, tmp_path)) == 2
    assert "validation images of one all have the same opinion" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--source_weights", "one=1"], "--source_weights must name every source"),
        (["--source_weights", "one=1,hundred=0"], "must be more than 0"),
        (["--source_weights", "one"], "not of the form NAME=X"),
        (["--score_scale", "ten"], "--score_scale ten"),
        (["--source_column", "study"], "no such column"),
        (["--mos_scale", "none"], "add --mos_scale standardise"),
    ],
)
def test_options_that_do_not_fit_are_named(words, message, labels, tiny_model_options, tmp_path, capsys):
    try:
        code = train.main(arguments(labels, tiny_model_options, tmp_path, *words))
    except SystemExit as stop:
        code = stop.code
    assert code == 2
    assert message in " ".join(capsys.readouterr().err.split())


def test_a_source_with_many_groups_leaves_the_others_measured(folder, labels, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(measures, "MAX_GROUPS", 2)
    table = pd.read_csv(labels)
    table["group"] = np.where(table["source"] == "one", table["image"], table["group"])
    table.to_csv(tmp_path / "many.csv", index=False)
    words = ["--checkpoint", f"{folder}/ckpts/two/best.pth", "--metadata", f"{tmp_path}/many.csv", "--database", "csv"]
    more = ["--source_column", "source", "--group_by", "group", "--logdir", f"{tmp_path}/logs"]
    assert test_script.main([*words, *more, "--json", f"{tmp_path}/m.json"]) == 0
    sources = json.loads((tmp_path / "m.json").read_text())["sources"]
    assert sources["one"]["groups"] is None
    assert sources["hundred"]["groups"]
    assert "one: --group_by group: more than" in capsys.readouterr().err


def test_predictions_of_several_sources_are_not_pooled_without_a_word(evaluated, folder, capsys):
    assert (
        test_script.main(["--predictions", f"{folder}/logs/two/predictions_test.csv", "--logdir", f"{folder}/l"]) == 0
    )
    assert "give --source_column source" in capsys.readouterr().err


def test_a_model_of_one_source_that_scores_several_and_a_training_on_several_warn(
    labels, trained, tiny_model_options, tmp_path, capsys
):
    data = ["--database", "csv", "--metadata", str(labels)]
    assert test_script.main(["--checkpoint", str(trained.best), *data, "--logdir", f"{tmp_path}/logs"]) == 0
    assert "give --source_column source" in capsys.readouterr().err
    words = [*data, *tiny_model_options, "--num_epochs", "1", "--num_workers", "0", "--device", "cpu"]
    assert train.main([*words, "--snapshot", f"{tmp_path}/ckpts", "--logdir", f"{tmp_path}/logs"]) == 0
    assert "Note: the column source names several data sets" in capsys.readouterr().out


def test_a_source_that_cannot_be_scored_at_all_is_among_the_failures(labels, folder, tmp_path, capsys):
    table = pd.read_csv(labels)
    is_broken = (table["source"] == "one") & (table["split"] == "test")
    (tmp_path / "broken.jpg").write_bytes(b"no photograph")
    for number, row in enumerate(table.index[is_broken]):
        shutil.copy(tmp_path / "broken.jpg", tmp_path / f"{number}.jpg")
        table.loc[row, "image"] = f"{tmp_path}/{number}.jpg"
    table.to_csv(tmp_path / "labels.csv", index=False)
    words = ["--checkpoint", f"{folder}/ckpts/two/best.pth", "--database", "csv", "--source_column", "source"]
    more = ["--metadata", f"{tmp_path}/labels.csv", "--logdir", f"{tmp_path}/logs", "--json", f"{tmp_path}/m.json"]
    assert test_script.main([*words, *more]) == EXIT_FAILED_IMAGES
    measured = json.loads((tmp_path / "m.json").read_text())
    assert set(measured["sources"]) == {"hundred"}
    assert len(measured["failures"]) == is_broken.sum()
