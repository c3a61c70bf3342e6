"""What the README shows works."""

import re
import shlex
import shutil
from pathlib import Path

import pytest
from PIL import Image

import benchmark
import export
import flops
import predict
import prepare
import test as test_entry
from utils.training.options import train_parser

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
PARSERS = {
    "train.py": train_parser,
    "test.py": test_entry.test_parser,
    "predict.py": predict.predict_parser,
    "export.py": export.export_parser,
    "flops.py": flops.flops_parser,
    "prepare.py": lambda: prepare.prepare_parser()[0],
    "benchmark.py": benchmark.benchmark_parser,
}


def commands() -> list[str]:
    """Return the command lines of our entry points in the README and in the configs' headers."""
    texts = [README] + [path.read_text(encoding="utf-8") for path in sorted((ROOT / "configs").glob("*.yaml"))]
    texts += [path.read_text(encoding="utf-8") for path in sorted((ROOT / "docs").glob("*.md"))]
    joined = "\n".join(re.sub(r"\\\n#?", " ", text) for text in texts)
    return re.findall(
        r"python (?:-u )?((?:{})(?: [^`\n#]*|(?=[`\n])))".format("|".join(map(re.escape, PARSERS))), joined
    )


@pytest.mark.parametrize("command", commands())
def test_every_command_parses(command):
    name, *words = shlex.split(command.split(">>")[0])
    if "--help" not in words:
        PARSERS[name]().parse_args(words)


def test_commands_are_found_at_all():
    found = {command.split()[0] for command in commands()}
    assert found == set(PARSERS)


def test_the_python_example_runs(trained, photograph, tmp_path, monkeypatch, capsys):
    code = re.search(r"```python\n(.*?)```", README, re.DOTALL).group(1)
    assert len([line for line in code.splitlines() if line]) == 7
    (tmp_path / "ckpts/demo").mkdir(parents=True)
    shutil.copy(trained.best, tmp_path / "ckpts/demo/best.pth")
    Image.fromarray(photograph).save(tmp_path / "photo.jpg")
    monkeypatch.chdir(tmp_path)
    exec(compile(code, "README.md", "exec"), {})
    float(capsys.readouterr().out.split()[0])


def test_every_file_that_is_mentioned_is_there():
    for name in re.findall(r"\]\((?!http|#)([^)]+)\)", README) + re.findall(r"`(configs/[\w.]+)`", README):
        assert (ROOT / name).exists(), name
