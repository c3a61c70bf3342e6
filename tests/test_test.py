"""Evaluation: three protocols, on the split of training, from our checkpoints and released weights."""

import json
import shutil

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from tiny_checkpoint import content_of, tiny_model

import test as test_entry
from utils.errors import EXIT_FAILED_IMAGES, EXIT_UNUSABLE_INPUT
from utils.weights_file import write_weights_file


def evaluate(trained, tmp_path, *more: str) -> tuple[int, dict]:
    """Run test.py on the trained run; return its exit code and its measures."""
    split = next((word.split("=")[1] for word in more if word.startswith("--split=")), "test")
    code = test_entry.main(
        ["--checkpoint", str(trained.best), f"--logdir={tmp_path}", "--num_workers=0", "--device=cpu", *more]
    )
    return code, json.loads((tmp_path / "tiny" / f"test_{split}.json").read_text())


def test_the_measures_are_those_of_the_predictions(trained, tmp_path):
    code, report = evaluate(trained, tmp_path)
    table = pd.read_csv(tmp_path / "tiny" / "predictions_test.csv")
    assert code == 0
    points = ["points_aesthetic", "points_distortion", "points_salient"]
    assert list(table) == ["image", "mos", "score", "quality", *points]
    assert report["split"] == "test"
    assert report["n"] == len(table) == 6
    assert report["raw"]["SRCC"] == pytest.approx(stats.spearmanr(table["score"], table["mos"]).statistic)
    assert report["val_fitted"]["PLCC"] == pytest.approx(np.corrcoef(table["quality"], table["mos"])[0, 1])
    assert report["raw"]["MAE"] == pytest.approx((table["score"] - table["mos"]).abs().mean())
    for protocol in ("raw", "val_fitted", "test_fitted"):
        for name in ("SRCC", "KRCC", "PLCC", "RMSE", "MAE"):
            low, high = report[protocol]["ci95"][name]
            assert low <= high


def test_the_report_says_on_which_data_each_mapping_was_fitted(trained, tmp_path, capsys):
    _, report = evaluate(trained, tmp_path)
    output = capsys.readouterr().out
    assert "validation" in report["val_fitted"]["mapping"]
    assert "test labels themselves" in report["test_fitted"]["mapping"]
    assert "fitted on validation" in output
    assert "fitted on the test labels themselves; an upper bound, not a result" in output
    assert "comparable" not in output, "six images are not UHD-IQA's test split"


def test_scoring_again_gives_exactly_the_same_predictions(trained, tmp_path):
    evaluate(trained, tmp_path / "first")
    evaluate(trained, tmp_path / "second", "--num_workers=2")
    first, second = (tmp_path / name / "tiny" / "predictions_test.csv" for name in ("first", "second"))
    assert first.read_bytes() == second.read_bytes()


def test_json_is_alone_on_standard_output(trained, tmp_path, capsys):
    _, report = evaluate(trained, tmp_path, "--json=-")
    assert json.loads(capsys.readouterr().out)["raw"] == report["raw"]


def test_controls_are_measured_beside_the_model(trained, tmp_path, capsys):
    _, report = evaluate(trained, tmp_path, "--controls")
    table = pd.read_csv(tmp_path / "tiny" / "predictions_test.csv")
    sizes = [(trained.dataset / "test" / name).stat().st_size for name in table["image"]]
    assert report["controls"]["file_size"]["SRCC"] == pytest.approx(stats.spearmanr(sizes, table["mos"]).statistic)
    assert report["controls"]["untrained"]["SRCC"] != report["raw"]["SRCC"]
    assert "control: file size" in capsys.readouterr().out


def test_an_unreadable_image_is_recorded_and_the_rest_is_measured(trained, tmp_path, capsys):
    copy = tmp_path / "data"
    shutil.copytree(trained.dataset, copy)
    broken = sorted((copy / "test").iterdir())[0]
    broken.write_bytes(b"not a photograph")
    code, report = evaluate(trained, tmp_path, f"--database_dir={copy}")
    assert code == EXIT_FAILED_IMAGES
    assert report["n"] == 5
    assert [failure["image"] for failure in report["failures"]] == [broken.name]
    assert broken.name in capsys.readouterr().err


def test_a_missing_checkpoint_says_where_to_get_one(tmp_path, capsys):
    code = test_entry.main(["--checkpoint", str(tmp_path / "UIQA.pth"), "--database_dir", str(tmp_path)])
    assert code == EXIT_UNUSABLE_INPUT
    assert "github.com/sunwei925/UIQA" in capsys.readouterr().err


def test_the_random_split_is_the_one_of_training(tiny_dataset, tiny_model_options, tmp_path):
    """A training-only label file has no official split: test.py rebuilds it from the checkpoint's options."""
    import train

    table = pd.read_csv(tiny_dataset / "uhd-iqa-metadata.csv")
    training_only = tmp_path / "uhd-iqa-training-metadata.csv"
    table[table["set"] == "training"].to_csv(training_only, index=False)
    folders = [f"--database_dir={tiny_dataset}", f"--snapshot={tmp_path}/ckpts", f"--logdir={tmp_path}/logs", "--run=r"]
    more = ["--num_epochs=1", "--num_workers=0", "--random_seed=1000", f"--metadata={training_only}"]
    assert train.main([*tiny_model_options, *folders, *more]) == 0
    test_entry.main(
        ["--checkpoint", f"{tmp_path}/ckpts/r/best.pth", "--split=val", f"--logdir={tmp_path}/logs", "--num_workers=0"]
    )
    names = table.loc[table["set"] == "training", "image_name"].to_numpy()
    order = np.random.RandomState(1000).permutation(len(names))
    expected = set(names[order[int(len(names) * 0.8) :]])
    assert set(pd.read_csv(tmp_path / "logs/r/predictions_val.csv")["image"]) == expected


def test_groups_are_measured_and_kept_with_the_predictions(trained, tmp_path, capsys):
    _, report = evaluate(trained, tmp_path, "--group_by=degradation")
    table = pd.read_csv(tmp_path / "tiny" / "predictions_test.csv")
    assert {name: group["n"] for name, group in report["groups"]["measures"].items()} == dict(
        sorted(table["degradation"].value_counts().items())
    )
    assert "Within each degradation" in capsys.readouterr().out


def test_a_misspelt_group_fails_before_anything_is_scored(trained, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(test_entry, "score_photographs", lambda *given, **named: pytest.fail("scored"))
    words = ["--checkpoint", str(trained.best), f"--logdir={tmp_path}", "--group_by=degradatoin"]
    assert test_entry.main(words) == EXIT_UNUSABLE_INPUT
    assert "degradatoin: no such column" in capsys.readouterr().err


def test_a_score_over_several_draws_has_a_sampling_error(trained, tmp_path):
    _, report = evaluate(trained, tmp_path, "--fragment_draws=4")
    table = pd.read_csv(tmp_path / "tiny" / "predictions_test.csv")
    assert report["fragment_draws"] == 4
    np.testing.assert_allclose(table["sampling_error"], table["draw_sd"] / 2)
    assert (table["draw_sd"] > 0).all()


def test_predictions_are_measured_again_without_scoring(trained, tmp_path, capsys):
    _, report = evaluate(trained, tmp_path)
    predictions = str(tmp_path / "tiny" / "predictions_test.csv")
    capsys.readouterr()
    assert test_entry.main(["--predictions", predictions, f"--logdir={tmp_path}", "--json=-"]) == 0
    again = json.loads(capsys.readouterr().out)
    for protocol in ("raw", "val_fitted", "test_fitted"):
        assert again[protocol]["PLCC"] == pytest.approx(report[protocol]["PLCC"])
    assert again["fingerprint"] == report["fingerprint"]


def test_a_report_of_predictions_belongs_to_the_run_that_holds_them(trained, tmp_path):
    evaluate(trained, tmp_path)
    predictions = tmp_path / "tiny" / "predictions_test.csv"
    words = [f"--logdir={tmp_path}", "--report"]
    assert test_entry.main(["--predictions", str(predictions), *words]) == 0
    assert (tmp_path / "tiny" / "report_test.html").exists()
    shutil.copy(predictions, tmp_path / "loose.csv")
    assert test_entry.main(["--predictions", str(tmp_path / "loose.csv"), *words]) == 0
    assert (tmp_path / "loose" / "report_test.html").exists()


def test_predictions_for_another_split_are_refused(trained, tmp_path, capsys):
    evaluate(trained, tmp_path)
    predictions = str(tmp_path / "tiny" / "predictions_test.csv")
    words = ["--predictions", predictions, "--checkpoint", str(trained.best), "--split=val", f"--logdir={tmp_path}"]
    assert test_entry.main(words) == EXIT_UNUSABLE_INPUT
    assert "none of its images is in the val split" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "remedy"),
    [([], "--checkpoint"), (["--predictions=p.csv", "--controls"], "leave out --predictions")],
)
def test_contradictory_options_are_refused(words, remedy, capsys):
    with pytest.raises(SystemExit):
        test_entry.main(words)
    assert remedy in capsys.readouterr().err


def own_table(dataset, folder, **columns):
    """Write the photographs of a data set as a CSV file without splits; return its rows and options."""
    paths = sorted(dataset.rglob("*.jpg"))
    table = pd.DataFrame({"image": [str(path.relative_to(dataset)) for path in paths]} | columns)
    table.to_csv(folder / "labels.csv", index=False)
    return table, ["--database=csv", f"--metadata={folder}/labels.csv", f"--database_dir={dataset}"]


def test_a_table_without_splits_is_evaluated_whole(trained, tmp_path, capsys):
    table, data = own_table(trained.dataset, tmp_path, mos=range(24))
    words = ["--checkpoint", str(trained.best), f"--logdir={tmp_path}", *data]
    assert test_entry.main(words) == EXIT_UNUSABLE_INPUT
    assert "--split all" in capsys.readouterr().err
    code, report = evaluate(trained, tmp_path, *data, "--split=all", "--report")
    assert code == 0
    assert (report["n"], report["training_images"]) == (24, 12)
    written = pd.read_csv(tmp_path / "tiny" / "predictions_all.csv")
    assert written["image"].tolist() == table["image"].tolist()
    assert "All 24 images, training images included" in (tmp_path / "tiny" / "report_all.html").read_text()
    captured = capsys.readouterr()
    assert "all 24 images, training images included" in captured.out
    assert "trained on 12 of the 24 images" in captured.err


def test_the_split_of_predictions_is_that_of_their_name(trained, tmp_path, capsys):
    evaluate(trained, tmp_path, "--split=all")
    predictions = str(tmp_path / "tiny" / "predictions_all.csv")
    capsys.readouterr()
    words = ["--predictions", predictions, f"--logdir={tmp_path}", "--json=-"]
    assert test_entry.main(words) == 0
    assert json.loads(capsys.readouterr().out)["split"] == "all"
    assert test_entry.main([*words, "--checkpoint", str(trained.best)]) == 0
    assert json.loads(capsys.readouterr().out)["training_images"] == 12
    assert test_entry.main([*words, "--checkpoint", str(trained.best), "--split=test"]) == EXIT_UNUSABLE_INPUT
    assert "18 of its 24 images are not in the test split" in capsys.readouterr().err


def test_whole_scenes_are_resampled_and_kept_with_the_predictions(trained, tmp_path, capsys):
    _, data = own_table(trained.dataset, tmp_path, mos=range(24), scene=[f"{n // 6:04d}" for n in range(24)])
    _, report = evaluate(
        trained, tmp_path, *data, "--split=all", "--resample_by=scene", "--group_by=scene", "--controls"
    )
    assert report["resample_by"] == {"column": "scene", "groups": 4}
    captured = capsys.readouterr()
    assert "100 resamples of 4 groups of images (column scene)" in captured.out
    assert "only 4 groups" in captured.err
    predictions = tmp_path / "tiny" / "predictions_all.csv"
    assert pd.read_csv(predictions, dtype=str)["scene"].unique().tolist() == ["0000", "0001", "0002", "0003"]
    words = ["--predictions", str(predictions), f"--logdir={tmp_path}", "--json=-"]
    assert test_entry.main([*words, "--resample_by=scene"]) == 0
    assert json.loads(capsys.readouterr().out)["raw"] == report["raw"]
    assert test_entry.main([*words, "--resample_by=content"]) == EXIT_UNUSABLE_INPUT
    assert "--resample_by content: no such column; choose from image, mos, " in capsys.readouterr().err


def test_a_column_that_cannot_be_resampled_fails_before_anything_is_scored(trained, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(test_entry, "score_photographs", lambda *given, **named: pytest.fail("scored"))
    words = ["--checkpoint", str(trained.best), f"--logdir={tmp_path}", "--resample_by=scenes"]
    assert test_entry.main(words) == EXIT_UNUSABLE_INPUT
    assert "scenes: no such column" in capsys.readouterr().err


def test_a_checkpoint_remembers_that_lower_opinions_are_better(tiny_dataset, tiny_model_options, tmp_path, capsys):
    import train

    dmos = np.random.default_rng(0).permutation(24) * 2.5
    _, data = own_table(tiny_dataset, tmp_path, mos=dmos)
    places = [f"--snapshot={tmp_path}", f"--logdir={tmp_path}", "--run=r", "--num_workers=0"]
    assert train.main([*tiny_model_options, *data, *places, "--lower_is_better", "--num_epochs=1"]) == 0
    words = ["--checkpoint", f"{tmp_path}/r/best.pth", "--split=all", f"--logdir={tmp_path}", "--num_workers=0"]
    assert test_entry.main(words) == 0
    assert "negatives of" in capsys.readouterr().out
    predictions = ["--predictions", f"{tmp_path}/r/predictions_all.csv", f"--logdir={tmp_path}"]
    assert pd.read_csv(predictions[1])["mos"].tolist() == (-dmos).tolist()
    assert test_entry.main([*predictions, *words]) == 0
    assert test_entry.main([*predictions, *words, "--lower_is_better=False"]) == EXIT_UNUSABLE_INPUT
    assert "--lower_is_better" in capsys.readouterr().err
    assert test_entry.main([*words, "--lower_is_better=False"]) == 0
    assert "trained with --lower_is_better True" in capsys.readouterr().err


def test_predictions_alone_have_no_labels_to_negate(capsys):
    with pytest.raises(SystemExit):
        test_entry.main(["--predictions=p.csv", "--lower_is_better"])
    assert "hold negated DMOS already" in capsys.readouterr().err


def test_released_weights_on_a_split_of_the_training_rows_are_warned_of(tiny_dataset, tmp_path, capsys, monkeypatch):
    """Weights without options are like the released ones: they do not say what they were trained on."""
    table = pd.read_csv(tiny_dataset / "uhd-iqa-metadata.csv")
    training_only = tmp_path / "uhd-iqa-training-metadata.csv"
    table[table["set"] == "training"].to_csv(training_only, index=False)
    write_weights_file(tmp_path / "w.pth", content_of(tiny_model()) | {"options": {}})
    words = ["--checkpoint", f"{tmp_path}/w.pth", f"--database_dir={tiny_dataset}", f"--logdir={tmp_path}", "--json=-"]
    assert test_entry.main([*words, "--split=val", f"--metadata={training_only}"]) == 0
    captured = capsys.readouterr()
    assert captured.err.count("may have been trained on") == 1
    assert "may have been trained on" in json.loads(captured.out)["notes"][-1]
    assert test_entry.main([*words, "--split=val"]) == 0
    assert "may have been" not in capsys.readouterr().err


@pytest.mark.parametrize("kept", [0, 1, 4])
def test_few_images_that_can_be_scored_are_reported_and_none_is_an_error(kept, trained, tmp_path, capsys):
    copy = tmp_path / "data"
    shutil.copytree(trained.dataset, copy)
    for broken in sorted((copy / "test").iterdir())[kept:]:
        broken.write_bytes(b"not a photograph")
    words = ["--checkpoint", str(trained.best), f"--logdir={tmp_path}", f"--database_dir={copy}", "--num_workers=0"]
    code = test_entry.main(words)
    captured = capsys.readouterr()
    if kept == 0:
        assert code == EXIT_UNUSABLE_INPUT
        assert "none of the 6 images could be scored" in captured.err
        assert len(captured.err.strip().splitlines()) == 1
        return
    assert code == EXIT_FAILED_IMAGES
    assert f"{kept} images are too few to fit" in captured.out
    assert ("nan: correlations" in captured.out) == (kept == 1)
