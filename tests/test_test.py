"""Evaluation: three protocols, on the split of training, from our checkpoints and released weights."""

import json
import shutil

import numpy as np
import pandas as pd
import pytest
from scipy import stats

import test as test_entry
from utils.errors import EXIT_FAILED_IMAGES, EXIT_UNUSABLE_INPUT


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
    assert "fitted on validation; the protocol of the published tables" in output


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
