"""The options of train.py: the published command, and configs that repeat no default."""

import shlex
from pathlib import Path

import pytest

from utils.command_line import parse_options
from utils.training.options import run_name, train_parser

ROOT = Path(__file__).parents[3]
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
    options = parse_options(train_parser(), words)
    assert run_name(options.run, options.config, options.model, options.database) == name
