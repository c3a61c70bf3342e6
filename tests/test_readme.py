"""What the README, the docs and the config headers show works."""

import argparse
import importlib.util
import re
import shlex
import shutil
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image

import benchmark
import export
import flops
import predict
import prepare
import test as test_entry
from utils.training.options import train_parser

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
CONFIGS = sorted((ROOT / "configs").glob("*.yaml"))
PARSERS = {
    "train.py": train_parser,
    "test.py": test_entry.test_parser,
    "predict.py": predict.predict_parser,
    "export.py": export.export_parser,
    "flops.py": flops.flops_parser,
    "prepare.py": lambda: prepare.prepare_parser()[0],
    "benchmark.py": benchmark.benchmark_parser,
}
MOST_README_LINES = 160


def text_of(path: Path) -> str:
    return path.read_text(encoding="utf-8")


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


def joined_text() -> str:
    """Return all pages and config headers, with continued command lines joined."""
    return "\n".join(re.sub(r"\\\n#?", " ", text_of(path)) for path in [*PAGES, *CONFIGS])


def commands(script: str) -> list[str]:
    """Return the command lines of scripts whose path matches a pattern, from the script's name on."""
    start = r"(?:python (?:-u )?|torchrun --nproc_per_node \d+ (?:-- )?)"
    return sorted(set(re.findall(rf"{start}({script}(?: [^`\n#]*|(?=[`\n])))", joined_text())))


def code(text: str) -> list[str]:
    """Return the lines of the fenced blocks and the inline code of a page."""
    fenced = re.findall(r"```\w*\n(.*?)```", text, re.DOTALL)
    inline = re.findall(r"`([^`\n]+)`", re.sub(r"```.*?```", "", text, flags=re.DOTALL))
    return [line.split("#")[0] for block in [*fenced, *inline] for line in block.splitlines()]


def headings(path: Path) -> set[str]:
    """Return the anchors that GitHub gives a page's headings."""
    titles = re.findall(r"^#+ (.+)$", text_of(path), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("command", commands(r"\w+\.py"))
def test_every_command_parses(command):
    name, *arguments = shlex.split(command.split(">>")[0])
    if "--help" not in arguments:
        assert vars(PARSERS[name]().parse_args(arguments))


def test_commands_of_every_entry_point_are_checked():
    assert {command.split()[0] for command in commands(r"\w+\.py")} == set(PARSERS)


class ParsedSuccessfully(BaseException):
    """Ends a script once its command line is parsed, before it does anything."""


@pytest.mark.parametrize("command", commands(r"docs/\w+\.py"))
def test_every_command_of_a_script_under_docs_parses(command, monkeypatch):
    name, *arguments = shlex.split(command)
    spec = importlib.util.spec_from_file_location(f"script_{Path(name).stem}", ROOT / name)
    script = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, spec.name, script)
    monkeypatch.setattr(sys, "argv", [name, *arguments])
    monkeypatch.syspath_prepend(str((ROOT / name).parent))  # where a script finds the modules beside it
    spec.loader.exec_module(script)
    parse_args = argparse.ArgumentParser.parse_args

    def stop_after_parsing(parser, *args):
        parse_args(parser, *args)
        raise ParsedSuccessfully

    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", stop_after_parsing)
    with pytest.raises(ParsedSuccessfully):
        script.main()


def test_the_scripts_under_docs_are_documented():
    named = {command.split()[0] for command in commands(r"docs/\w+\.py")}
    assert named >= {name_of(path) for path in (ROOT / "docs").glob("*.py")}


def test_every_make_target_exists():
    targets = set(re.findall(r"^([\w-]+):", text_of(ROOT / "Makefile"), re.MULTILINE))
    named = {target for path in PAGES for line in code(text_of(path)) for target in re.findall(r"^make (\S+)", line)}
    assert {"demo", "test", "smoke"} <= named
    assert named <= targets


def test_the_published_command_is_in_the_readme_as_published():
    published = (
        "python -u train.py --num_epochs 100 --batch_size 12 --n_fragment 15 --resize 512 --crop_size 480 "
        "--salient_patch_dimension 480 --lr 0.00001 --lr_weight_L2 0.1 --lr_weight_pair 1 --decay_ratio 0.9 "
        "--decay_interval 10 --random_seed 1000 --snapshot ckpts "
        "--pretrained_path ckpts/Model_SwinT_AVA_size_480_epoch_10.pth --database_dir UHDIQA/challenge/training/ "
        "--model UIQA --multi_gpu True --print_samples 20 --database UHD_IQA >> logfiles/train_UIQA.log"
    )
    assert published in " ".join(text_of(ROOT / "README.md").replace("\\\n", " ").split())


def test_the_readme_is_short():
    assert len(text_of(ROOT / "README.md").splitlines()) <= MOST_README_LINES


@pytest.mark.parametrize("page", [path for path in PAGES if path.parent != ROOT], ids=name_of)
def test_every_page_under_docs_opens_with_a_command_and_is_linked_from_the_readme(page):
    assert text_of(page).splitlines()[2] == "```"
    assert f"](docs/{page.name})" in text_of(ROOT / "README.md")


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_link_leads_to_a_file_and_a_heading(page):
    for target in re.findall(r"\]\((?!http)([^)]+)\)", text_of(page)):
        name, _, anchor = target.partition("#")
        linked = page.parent / name if name else page
        assert linked.exists(), target
        assert not anchor or anchor in headings(linked), target


@pytest.mark.parametrize("page", [*PAGES, *CONFIGS], ids=name_of)
def test_every_config_and_module_that_is_named_exists(page):
    packages = "configs|data|models|losses|utils|tests|docs"
    for name in re.findall(rf"(?<![\w/])((?:{packages})/[\w/]+\.(?:py|yaml|md))", text_of(page)):
        assert (ROOT / name).is_file(), name


def test_the_architecture_page_names_the_modules_of_every_package():
    named = set(
        re.findall(r"(?<![\w/])((?:data|models|losses|utils)/[\w/]+\.py)", text_of(ROOT / "docs/architecture.md"))
    )
    assert all((ROOT / name).is_file() for name in named)
    assert {name.split("/")[0] for name in named} == {"data", "models", "losses", "utils"}
    folders = set(re.findall(r"`(utils/\w+/)`", text_of(ROOT / "docs/architecture.md")))
    assert folders == {f"utils/{path.parent.name}/" for path in (ROOT / "utils").glob("*/__init__.py")}


@pytest.fixture
def workplace(trained, photograph, tmp_path, monkeypatch) -> Path:
    """A folder with a trained model and a photograph under the names that the examples use."""
    (tmp_path / "ckpts/demo").mkdir(parents=True)
    shutil.copy(trained.best, tmp_path / "ckpts/demo/best.pth")
    Image.fromarray(photograph).save(tmp_path / "photo.jpg")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def python_examples() -> list:
    """Return the Python blocks and `python -c` commands of all pages."""
    examples = []
    for page in PAGES:
        blocks = re.findall(r"```python\n(.*?)```", text_of(page), re.DOTALL)
        blocks += re.findall(r'python -c "(.*?)"\n', text_of(page))
        examples += [
            pytest.param(block, id=f"{page.name}: {block.strip().splitlines()[-1].strip()[:40]}") for block in blocks
        ]
    return examples


def run_example(source: str) -> dict:
    variables: dict = {}
    exec(compile(source.replace("path/to/UIQA", str(ROOT)), "example", "exec"), variables)
    return variables


@pytest.mark.parametrize("source", python_examples())
def test_every_python_example_runs(source, workplace, capsys, request):
    if "lite.onnx" in source:
        shutil.copy(request.getfixturevalue("exported_whole"), workplace / "lite.onnx")
    run_example(source)
    assert ("print(" in source) == bool(capsys.readouterr().out)


def test_the_one_line_example_prints_what_predict_gives(workplace, capsys):
    (one_line,) = re.findall(r'python -c "(.*score\(.*)"\n', text_of(ROOT / "docs/scoring.md"))
    run_example(one_line)
    printed = re.search(r"score (-?[\d.]+)", capsys.readouterr().out).group(1)
    assert predict.main(["--device=cpu", "--num_workers=0", "photo.jpg"]) == 0
    assert printed in capsys.readouterr().out.split()


def test_a_step_against_the_gradient_of_the_quality_loss_raises_the_score(workplace):
    (source,) = re.findall(r"```python\n([^`]*loss\.backward[^`]*)```", text_of(ROOT / "docs/deployment.md"))
    variables = run_example(source)
    views, model = variables["views"], variables["model"]
    with torch.no_grad():
        for view in views.values():
            assert view.grad.abs().max() > 0
            view -= 1e-3 * view.grad / view.grad.norm()
        assert -model(**views).mean() < variables["loss"]
