"""The options: one default each, the published command, and configs that repeat none of them."""

import shlex
from dataclasses import replace
from pathlib import Path

import pytest

import flops
import predict
import prepare
import test as test_entry
from data.tables import TableError
from data.views import ViewSpec
from utils.command_line import parse_options
from utils.options import run_name, table_of, train_parser, view_spec

ROOT = Path(__file__).parent.parent
CONFIGS = sorted((ROOT / "configs").glob("*.yaml"))
PUBLISHED = """
--num_epochs 100 --batch_size 12 --n_fragment 15 --resize 512 --crop_size 480 --salient_patch_dimension 480 --lr 0.00001
--lr_weight_L2 0.1 --lr_weight_pair 1 --decay_ratio 0.9 --decay_interval 10 --random_seed 1000 --snapshot ckpts
--pretrained_path ckpts/Model_SwinT_AVA_size_480_epoch_10.pth --database_dir UHDIQA/challenge/training/ --model UIQA
--multi_gpu True --print_samples 20 --database UHD_IQA
"""


def test_the_published_command_parses_and_repeats_the_defaults():
    options = vars(parse_options(train_parser(), shlex.split(PUBLISHED)))
    defaults = vars(parse_options(train_parser(), []))
    differ = {name for name in options if options[name] != defaults[name]}
    assert differ == {"random_seed", "pretrained_path", "database_dir", "multi_gpu", "print_samples"}
    assert options["multi_gpu"] is True


def test_what_the_published_command_leaves_out_is_as_published():
    options = parse_options(train_parser(), [])
    assert (options.weight_decay, options.backbone, options.saliency) == (1e-7, "swin_t", "center")
    assert (options.mos_scale, options.init) == ("none", "imagenet")


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.name)
def test_every_config_parses_and_repeats_no_default(path):
    options = vars(parse_options(train_parser(), [f"--config={path}"]))
    defaults = vars(parse_options(train_parser(), []))
    keys = {line.split(":")[0] for line in path.read_text().splitlines() if ":" in line and not line.startswith("#")}
    assert keys == {name for name in options if options[name] != defaults[name]} - {"config"}


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.name)
def test_every_config_opens_with_its_command(path):
    header = path.read_text().split("\n\n")[0]
    assert header.startswith("#")
    assert f"train.py --config configs/{path.name}" in header


@pytest.mark.parametrize(
    ("words", "name"),
    [
        ([], "UIQA_UHD_IQA"),
        (["--model=Model_SwinT", "--database=AVA"], "SwinT_AVA"),
        ([f"--config={ROOT}/configs/demo.yaml"], "demo"),
        ([f"--config={ROOT}/configs/demo.yaml", "--run=mine"], "mine"),
    ],
)
def test_a_run_is_named_by_hand_else_by_its_config_else_by_what_it_trains(words, name):
    assert run_name(parse_options(train_parser(), words)) == name


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
        table_of(parse_options(train_parser(), []), splits=("train",))


def test_data_options_find_the_table_and_its_splits(tiny_dataset):
    table = table_of(parse_options(train_parser(), [f"--database_dir={tiny_dataset}"]), splits=("train", "test"))
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
        prepare.prepare_parser()[1],
    ],
    ids=lambda p: p.prog,
)
def test_every_option_is_explained(parser):
    assert [action.dest for action in parser._actions if not action.help] == []
    parser.format_help()
