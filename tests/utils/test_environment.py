"""What a result depends on is recorded: command, commit and versions."""

import sys

import torch

from utils.environment import PACKAGES, commit, environment


def test_the_environment_names_command_commit_and_versions(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["test.py", "--checkpoint", "a file.pth"])
    content = environment()
    assert content["command"] == "test.py --checkpoint 'a file.pth'"
    assert content["torch"] == torch.__version__
    assert {"python", "machine", "commit", *PACKAGES} <= content.keys()


def test_the_commit_is_unknown_without_git(monkeypatch):
    monkeypatch.setenv("PATH", "")
    assert commit() == "unknown"


def test_a_package_without_metadata_has_an_unknown_version(monkeypatch):
    monkeypatch.setattr("utils.environment.PACKAGES", ("a package that is not installed",))
    assert environment()["a package that is not installed"] == "unknown"
