"""docs/opinions.py: folds never divide a content, its commands parse, and its intervals draw whole contents."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from docs_scripts import load_script, parse_command

from data.known_datasets import SR4KIQA_FOLDS
from data.label_files import TableError
from utils.errors import EXIT_UNUSABLE_INPUT
from utils.reporting import folds


@pytest.fixture(scope="module")
def opinions():
    return load_script("opinions")


@pytest.fixture
def labels() -> pd.DataFrame:
    contents = [(content, fold) for fold, names in enumerate(SR4KIQA_FOLDS) for content in names for _ in range(3)]
    table = pd.DataFrame(contents, columns=["group", "fold"])
    table = table.assign(
        image=[f"{n}.jpg" for n in range(72)], mos=np.arange(72) % 5.0, source="SR4KIQA", split="train"
    )
    return pd.concat(
        [table, table.assign(source="BIQ2021", image=[f"other{n}.jpg" for n in range(72)])], ignore_index=True
    )


def test_every_command_parses_and_every_row_has_its_own_run(opinions):
    for rows in opinions.TABLES.values():
        assert len({row.run_name for row in rows}) == len(rows)
        for row in rows:
            for command in opinions.commands(row, 2, 1, Path("out")).values():
                parse_command(command)


def test_simulated_opinions_come_from_training_photographs_alone(opinions, tmp_path, monkeypatch):
    count = 3 * opinions.PRETRAINING_PHOTOGRAPHS
    table = pd.DataFrame({"image": [f"{n:04}.jpg" for n in range(count)], "source": "BIQ2021"})
    table["split"] = np.where(np.arange(count) % 3 == 2, "test", "train")
    commands = []
    monkeypatch.setattr(opinions, "run", commands.append)
    opinions.simulate(table, tmp_path / "out")
    links = sorted(path.name for path in (tmp_path / "out" / "photographs").iterdir())
    assert len(links) >= opinions.PRETRAINING_PHOTOGRAPHS
    assert set(links) <= set(table.loc[table["split"] == "train", "image"])
    assert len(commands) == 1
    parse_command(commands[0])


def test_a_start_on_biq2021_reads_every_opinion_but_those_of_sr4kiqa(opinions, labels, tmp_path, monkeypatch):
    rows = [row for row in opinions.TABLES["learning"] if row.start == "BIQ2021"]
    runs = [(row, fold, seed) for row in rows for fold in (0, 1) for seed in opinions.SEEDS]
    commands = []
    monkeypatch.setattr(opinions, "run", commands.append)
    monkeypatch.setattr(opinions, "train_and_test", lambda *_: pd.Series(dtype=float))
    with pytest.raises(TableError, match="needs a label table of BIQ2021, SR4KIQA and simulated"):
        opinions.train_all(runs, labels, tmp_path, tmp_path, 1, None)
    simulated = labels[labels["source"] == "BIQ2021"].assign(source="simulated")
    scores = opinions.Scores(tmp_path / "scores.csv", labels[labels["source"] == "SR4KIQA"])
    opinions.train_all(runs, pd.concat([labels, simulated]), tmp_path, tmp_path, 1, scores)
    assert set(pd.read_csv(tmp_path / "biq2021.csv")["source"]) == {"BIQ2021", "simulated"}
    assert sum("--run biq2021" in command for command in commands) == 1  # which every fold and seed starts from


def test_every_content_is_tested_once_and_never_divided(opinions, labels):
    folds = [opinions.fold_table(labels, fold) for fold in range(4)]
    for table in folds:
        assert len(table) == 72
        assert (table.groupby("group")["split"].nunique() == 1).all()
        assert table.groupby("split")["group"].nunique().to_dict() == {"test": 6, "train": 16, "val": 2}
    tested = [content for table in folds for content in table.loc[table["split"] == "test", "group"].unique()]
    assert sorted(tested) == sorted(content for names in SR4KIQA_FOLDS for content in names)


def test_a_run_is_finished_when_all_its_scores_are_kept(opinions, labels, tmp_path):
    own = labels[labels["source"] == "SR4KIQA"]
    scores = opinions.Scores(tmp_path / "scores.csv", own)
    assert scores.of("row, seed 0", 1) is None
    fold = own[own["fold"] == 1]
    given = pd.Series(np.arange(len(fold)) / 7, index=fold["image"].to_list())
    scores.add("row, seed 0", given)
    again = opinions.Scores(tmp_path / "scores.csv", own)  # another process
    kept = again.of("row, seed 0", 1)
    assert kept["score"].to_list() == pytest.approx(given.to_list(), abs=1e-4)
    assert kept["mos"].to_list() == fold["mos"].to_list()
    assert again.of("row, seed 0", 2) is None  # a fold that has not been scored
    assert again.of("row, seed 1", 1) is None


def test_a_finished_table_is_printed_without_training(opinions, labels, tmp_path, monkeypatch, capsys):
    labels = labels.assign(mos=np.arange(len(labels)) % 7)
    for image in labels["image"].unique():
        (tmp_path / image).write_bytes(b"x" * 3)
    labels.to_csv(tmp_path / "opinions.csv", index=False)
    own = labels[labels["source"] == "SR4KIQA"]
    scores = opinions.Scores(tmp_path / "scores.csv", own)
    for seed in opinions.SEEDS:
        scores.add(f"three branches, seed {seed}", pd.Series(np.arange(72.0), index=own["image"].to_list()))
    monkeypatch.setattr(folds, "RESAMPLES", 20)
    monkeypatch.setattr(opinions, "run", lambda command: pytest.fail(f"ran {command}"))
    arguments = ["branches", "opinions.csv", "--row", "three branches", "--scores", "scores.csv", "--out", "out"]
    monkeypatch.chdir(tmp_path)
    assert opinions.main(arguments) == 0
    assert "| three branches |" in capsys.readouterr().out


def test_rows_that_are_not_finished_can_be_left_out(opinions, labels, tmp_path, monkeypatch, capsys):
    labels = labels.assign(mos=np.arange(len(labels)) % 7)
    for image in labels["image"].unique():
        (tmp_path / image).write_bytes(b"x" * 3)
    labels.to_csv(tmp_path / "opinions.csv", index=False)
    own = labels[labels["source"] == "SR4KIQA"]
    scores = opinions.Scores(tmp_path / "scores.csv", own)
    for name in ("three branches, seed 0", "salient alone, seed 0"):
        scores.add(name, pd.Series(np.arange(72.0), index=own["image"].to_list()))
    monkeypatch.setattr(folds, "RESAMPLES", 20)
    monkeypatch.setattr(opinions, "run", lambda command: pytest.fail(f"ran {command}"))
    monkeypatch.chdir(tmp_path)
    arguments = ["branches", "opinions.csv", "--finished", "--scores", "scores.csv"]
    assert opinions.main(arguments) == EXIT_UNUSABLE_INPUT
    assert "no row can be compared yet" in capsys.readouterr().err
    assert opinions.main([*arguments, "--seeds", "1"]) == 0
    rows = capsys.readouterr().out.splitlines()[2:-1]
    assert [row.split("|")[1].strip() for row in rows] == ["three branches", "salient alone"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "no such file; write it with: python prepare.py labels"),
        ("image,mos\na.jpg,1\n", "no column fold, group, source; write it with: python prepare.py labels"),
        ("image,mos,split,source,group,fold\na.jpg,1,train,BIQ2021,ss01,\n", "no image of SR4KIQA"),
    ],
)
def test_a_table_that_cannot_be_used_is_one_error(opinions, content, message, tmp_path, capsys):
    if content is not None:
        (tmp_path / "labels.csv").write_text(content)
    assert opinions.main(["branches", str(tmp_path / "labels.csv")]) == EXIT_UNUSABLE_INPUT
    assert message in capsys.readouterr().err


def test_the_size_of_the_file_is_a_control(opinions, labels, tmp_path):
    for number, image in enumerate(labels["image"].unique()):
        (tmp_path / image).write_bytes(bytes(number))
    labels["mos"] = np.arange(len(labels))
    contents = opinions.file_sizes(labels[labels["source"] == "SR4KIQA"], tmp_path)
    assert contents.measure(contents.drawn(None))["SRCC"] == pytest.approx(1)


def test_a_trained_run_whose_scores_were_lost_is_only_tested_again(opinions, tmp_path, monkeypatch):
    row, ran = opinions.TABLES["branches"][0], []
    folder = tmp_path / "ckpts" / f"{row.run_name}_0_0"
    folder.mkdir(parents=True)
    (tmp_path / "logs" / folder.name).mkdir(parents=True)
    predictions = pd.DataFrame({"image": ["a/1.jpg", "a/2.jpg"], "mos": [1.0, 2.0], "score": [1.5, 1.0]})
    predictions.to_csv(tmp_path / "logs" / folder.name / "predictions_test.csv", index=False)
    monkeypatch.setattr(opinions, "run", lambda line: ran.append(line.split()[0]))
    (folder / "best.pth").touch()
    assert opinions.train_and_test(row, 0, 0, tmp_path).to_dict() == {"1.jpg": 1.5, "2.jpg": 1.0}
    (folder / "last.pth").touch()
    opinions.train_and_test(row, 0, 0, tmp_path)
    assert ran == ["test.py", "train.py", "test.py"]
