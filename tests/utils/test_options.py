"""The options: one default each, the published command, and configs that repeat none of them."""

import argparse
from dataclasses import replace

import pytest

import flops
import predict
import prepare
import test as test_entry
from data.tables import TableError
from data.views import ViewSpec
from utils.command_line import parse_options
from utils.options import DATA_OPTIONS, load_labels, take_data_options, view_spec
from utils.training.options import train_parser


def test_a_config_names_no_other_config(tmp_path, capsys):
    """It would not be read: a key that does nothing is a fault like a misspelt one."""
    (tmp_path / "run.yaml").write_text("config: other.yaml\n")
    with pytest.raises(SystemExit) as stop:
        parse_options(train_parser(), [f"--config={tmp_path}/run.yaml"])
    assert stop.value.code == 2
    assert "run.yaml" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("resize", 600),
        ("crop_size", 128),
        ("n_fragment", 4),
        ("salient_patch_dimension", 96),
        ("saliency", "spectral"),
        ("max_pixels", 1000),
    ],
)
def test_every_view_option_reaches_the_views_and_no_other_does(option, value):
    spec = view_spec(parse_options(train_parser(), [f"--{option}={value}"]))
    assert spec == replace(ViewSpec(), **{option: value})


def test_views_that_contradict_each_other_are_refused():
    with pytest.raises(ValueError, match="crop_size"):
        view_spec(parse_options(train_parser(), ["--crop_size=600"]))


def test_data_options_without_a_folder_ask_for_one():
    with pytest.raises(TableError, match="--database_dir"):
        load_labels(parse_options(train_parser(), []), splits=("train",))


def test_data_options_find_the_table_and_its_splits(tiny_dataset):
    table = load_labels(parse_options(train_parser(), [f"--database_dir={tiny_dataset}"]), splits=("train", "test"))
    assert [len(table.split(name)) for name in ("train", "test")] == [12, 6]


@pytest.mark.parametrize(
    "words", ["--lr=0", "--lr=inf", "--batch_size=0", "--random_seed=4294967296", "--num_workers=-1"]
)
def test_numbers_out_of_range_are_refused_by_name(words, capsys):
    with pytest.raises(SystemExit):
        parse_options(train_parser(), [words])
    assert words.split("=")[0] in capsys.readouterr().err


def test_a_single_trunk_reads_the_aesthetic_view_alone():
    assert view_spec(parse_options(train_parser(), ["--model=SwinT"])).views == ("aesthetic",)


@pytest.mark.parametrize(
    "parser",
    [
        train_parser(),
        test_entry.test_parser(),
        predict.predict_parser(),
        flops.flops_parser(),
        *prepare.prepare_parser()[1].values(),
    ],
    ids=lambda p: p.prog,
)
def test_every_option_is_explained(parser):
    assert [action.dest for action in parser._actions if not action.help] == []
    parser.format_help()


@pytest.mark.parametrize(
    ("given", "inherits"),
    [({}, True), ({"database_dir": "elsewhere"}, True), ({"database": "csv"}, True), ({"database": "UHD_IQA"}, False)],
    ids=str,
)
def test_the_direction_of_opinions_is_that_of_training_except_in_another_database(given, inherits):
    options = argparse.Namespace(**dict.fromkeys(DATA_OPTIONS) | given)
    take_data_options(options, {"database": "csv", "database_dir": "d", "lower_is_better": True})
    assert options.lower_is_better is inherits


@pytest.mark.parametrize(
    ("trained", "given", "folder"),
    [
        ("UHD_IQA", {"metadata": "uhd-iqa-metadata.csv"}, "photographs"),
        ("UHD_IQA", {"metadata": "labels.csv", "database": "csv"}, None),
        ("csv", {"metadata": "labels.csv"}, None),
        ("UHD_IQA", {"database_dir": "elsewhere"}, "elsewhere"),
    ],
)
def test_the_folder_of_training_is_kept_for_another_label_file_of_the_same_data_set(trained, given, folder):
    options = argparse.Namespace(**dict.fromkeys(DATA_OPTIONS) | given)
    take_data_options(options, {"database": trained, "database_dir": "photographs", "split_by": "user_name"})
    assert options.database_dir == folder
    assert (options.split_by == "user_name") == (trained == "UHD_IQA" and "database" not in given)


@pytest.mark.parametrize(("metadata", "split_by"), [("data/../labels.csv", "scene"), ("other.csv", None)])
def test_the_groups_of_the_split_belong_to_their_own_label_file(metadata, split_by, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data").mkdir()
    given = {"database": "csv", "metadata": metadata}
    options = argparse.Namespace(**dict.fromkeys(DATA_OPTIONS) | given)
    trained = {"database": "csv", "metadata": f"{tmp_path}/labels.csv", "split_by": "scene"}
    take_data_options(options, trained)
    assert options.split_by == split_by
