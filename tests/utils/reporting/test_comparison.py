"""Comparison: a file does not differ from itself, large differences are detected, only like is compared with like."""

import json

import numpy as np
import pandas as pd
import pytest
from scipy import stats

import test as test_entry
from utils.errors import EXIT_UNUSABLE_INPUT, RunError
from utils.reporting import comparison
from utils.reporting.comparison import compare, compare_sources, comparison_text


@pytest.fixture
def table() -> pd.DataFrame:
    generator = np.random.default_rng(5)
    mos = generator.uniform(0.2, 0.9, 80)
    score = mos + generator.normal(0, 0.08, 80)
    names = [f"{number:03d}.jpg" for number in range(80)]  # not numbers, although some tools read them as such
    return pd.DataFrame({"image": names, "mos": mos, "score": score, "quality": 0.9 * score + 0.05})


def write(tmp_path, **tables: pd.DataFrame) -> list[str]:
    for name, table in tables.items():
        table.to_csv(tmp_path / f"{name}.csv", index=False)
    return [str(tmp_path / f"{name}.csv") for name in tables]


def test_a_file_differs_from_itself_by_nothing(table, tmp_path):
    (path,) = write(tmp_path, a=table)
    result = compare(path, path)
    for name in ("SRCC", "PLCC"):
        assert result[name]["difference"] == 0
        assert result[name]["ci95"] == [0, 0]
        assert result[name]["p"] == 1


def test_shuffled_scores_differ_from_good_ones(table, tmp_path):
    shuffled = table.assign(**table[["score", "quality"]].sample(frac=1, random_state=0).reset_index(drop=True))
    result = compare(*write(tmp_path, a=table, b=shuffled))
    for name in ("SRCC", "PLCC"):
        assert result[name]["difference"] < -0.5
        assert result[name]["ci95"][1] < 0
        assert result[name]["p"] < 0.001


def test_the_figures_are_scipys_and_change_sign_when_the_files_are_swapped(table, tmp_path):
    worse = table.assign(score=table["score"] + np.random.default_rng(0).normal(0, 0.05, len(table)))
    one, other = write(tmp_path, a=table, b=worse)
    there, back = compare(one, other, resamples=500), compare(other, one, resamples=500)
    assert there["SRCC"]["second"] == pytest.approx(stats.spearmanr(worse["score"], table["mos"]).statistic)
    assert there["PLCC"]["first"] == pytest.approx(stats.pearsonr(table["quality"], table["mos"]).statistic)
    assert back["SRCC"]["difference"] == -there["SRCC"]["difference"]
    assert back["SRCC"]["ci95"] == pytest.approx([-limit for limit in there["SRCC"]["ci95"][::-1]])
    assert back["SRCC"]["p"] == pytest.approx(there["SRCC"]["p"])


def test_a_resample_has_the_correlations_that_scipy_gives_it(table, tmp_path):
    """Ranks are taken within each resample, ties and all."""
    worse = table.assign(score=table["score"].round(1))
    result = compare(*write(tmp_path, a=table, b=worse), resamples=3, seed=4)
    index = np.random.default_rng(4).integers(0, len(table), (3, len(table)))
    mos = table["mos"].to_numpy()
    expected = [
        stats.spearmanr(worse["score"].to_numpy()[rows], mos[rows]).statistic
        - stats.spearmanr(table["score"].to_numpy()[rows], mos[rows]).statistic
        for rows in index
    ]
    assert result["SRCC"]["ci95"] == pytest.approx(np.percentile(expected, [2.5, 97.5]))


def test_noise_is_not_taken_for_a_gain(table, tmp_path):
    """Two models that differ by chance alone: p is small as often as chance has it."""
    generator = np.random.default_rng(1)
    p_values = []
    for _ in range(40):
        tables = [table.assign(score=table["mos"] + generator.normal(0, 0.1, len(table))) for _ in range(2)]
        p_values.append(compare(*write(tmp_path, a=tables[0], b=tables[1]), resamples=400)["SRCC"]["p"])
    assert np.mean(np.array(p_values) < 0.05) <= 0.2


def test_the_order_of_the_rows_does_not_matter(table, tmp_path):
    worse = table.assign(score=table["score"].round(1))
    straight = compare(*write(tmp_path, a=table, b=worse), resamples=200)
    assert compare(*write(tmp_path, a=table, b=worse.sample(frac=1, random_state=0)), resamples=200) == straight


def test_without_a_mapping_plcc_is_of_scores_and_that_is_said(table, tmp_path):
    paths = write(tmp_path, a=table, b=table.drop(columns="quality"))
    result = compare(*paths, resamples=50)
    assert result["plcc_of"] == "score"
    assert result["PLCC"]["first"] == pytest.approx(stats.pearsonr(table["score"], table["mos"]).statistic)
    assert "no mapped quality" in comparison_text(result, *paths)


def test_constant_scores_have_no_correlation_to_compare(table, tmp_path):
    result = compare(*write(tmp_path, a=table, b=table.assign(score=0.5)), resamples=50)
    assert np.isnan([result["SRCC"]["difference"], result["SRCC"]["p"], *result["SRCC"]["ci95"]]).all()


def test_one_image_has_no_correlation_to_compare(table, tmp_path):
    result = compare(*write(tmp_path, a=table[:1], b=table[:1]), resamples=50)
    assert result["n"] == 1
    assert np.isnan([result["PLCC"]["difference"], result["PLCC"]["p"], *result["PLCC"]["ci95"]]).all()


def test_other_images_or_opinions_are_refused_by_name(table, tmp_path):
    with pytest.raises(RunError, match=r"079\.jpg"):
        compare(*write(tmp_path, a=table, b=table[:-1]))
    with pytest.raises(RunError, match=r"079\.jpg"):
        compare(*write(tmp_path, a=table[:-1], b=table))
    moved = table.assign(mos=table["mos"].where(table["image"] != "004.jpg", 0.1234))
    with pytest.raises(RunError, match=r"004\.jpg.*0\.1234"):
        compare(*write(tmp_path, a=table, b=moved))


def test_the_command_prints_and_writes_the_comparison(table, tmp_path, capsys):
    paths = write(tmp_path, a=table, b=table.assign(score=table["score"].round(1)))
    assert test_entry.main(["--compare", *paths, f"--json={tmp_path}/c.json"]) == 0
    output = capsys.readouterr().out
    assert "p = " in output
    assert "two checkpoints, not two methods" in output
    assert json.loads((tmp_path / "c.json").read_text())["resamples"] == 10_000
    assert test_entry.main(["--compare", paths[0], f"{tmp_path}/absent.csv"]) == EXIT_UNUSABLE_INPUT
    assert "absent.csv" in capsys.readouterr().err


def test_whole_groups_are_resampled_and_that_is_said(table, tmp_path):
    """Copies of images make the interval of a difference too narrow unless they are resampled together."""
    worse = table.assign(score=table["score"] + np.random.default_rng(0).normal(0, 0.05, len(table)))
    once = compare(*write(tmp_path, a=table, b=worse), resamples=400)
    copies = [
        pd.concat([frame.assign(image=f"{n}_" + frame["image"], content=frame["image"]) for n in range(5)])
        for frame in (table, worse)
    ]
    paths = write(tmp_path, a=copies[0], b=copies[1])
    together, apart = (compare(*paths, resamples=400, resample_by=column) for column in ("content", None))
    assert together["SRCC"]["ci95"] == pytest.approx(once["SRCC"]["ci95"])
    assert together["SRCC"]["p"] == pytest.approx(once["SRCC"]["p"])
    assert np.ptp(apart["SRCC"]["ci95"]) < 0.7 * np.ptp(once["SRCC"]["ci95"])
    assert "400 resamples of 80 groups of images (column content)" in comparison_text(together, *paths)


def test_a_comparison_by_a_missing_or_coarse_column_says_so(table, tmp_path, capsys):
    (path,) = write(tmp_path, a=table.assign(half=["a", "b"] * 40))
    assert test_entry.main(["--compare", path, path, "--resample_by=scene"]) == EXIT_UNUSABLE_INPUT
    assert "no such column; choose from image, mos, score, quality, half" in capsys.readouterr().err
    assert test_entry.main(["--compare", path, path, "--resample_by=half", "--json=-"]) == 0
    captured = capsys.readouterr()
    assert "only 2 groups" in captured.err
    result = json.loads(captured.out)
    assert result["notes"]
    assert "two checkpoints, not two methods" in result["compares"]


def test_data_sets_are_compared_one_by_one(table, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(comparison, "RESAMPLES", 100)
    second = table.assign(image="b" + table["image"], mos=5 * table["mos"], score=5 * table["score"])
    both = pd.concat([table.assign(source="one"), second.assign(source="five")])
    worse = both.assign(score=both["score"].to_numpy()[::-1])
    paths = write(tmp_path, a=both, b=worse)
    result = compare_sources(*paths, "source")
    assert list(result) == ["one", "five"]
    for name, rows in both.groupby("source"):
        alone = compare(*write(tmp_path, c=rows, d=worse.loc[(worse["source"] == name).to_numpy()]), resamples=100)
        assert result[name] == alone
    assert test_entry.main(["--compare", *paths, "--source_column", "source", f"--json={tmp_path}/c.json"]) == 0
    assert "five: Two checkpoints, 80 images" in capsys.readouterr().out
    assert json.loads((tmp_path / "c.json").read_text())["sources"]["one"]["n"] == 80
    with pytest.raises(RunError, match="no such column"):
        compare_sources(*paths, "study")
    assert "give --source_column source" in compare(*paths, resamples=2)["notes"][0]
