"""What a result depends on besides data and options: the command, the commit and the installed versions."""

import platform
import shlex
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

PACKAGES = ("torchvision", "timm", "numpy", "Pillow", "simplejpeg", "scipy", "pandas")


def environment() -> dict[str, str]:
    """Return the command line, the machine, the commit and the versions, by name."""
    return {
        "command": shlex.join(sys.argv),
        "python": platform.python_version(),
        "machine": platform.platform(),
        "commit": commit(),
        "torch": torch.__version__,  # with its CUDA build
        **{name: _version(name) for name in PACKAGES},
    }


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:  # installed without metadata
        return "unknown"


def commit() -> str:
    """Return the commit of this code, with "+ changes" if files differ from it; "unknown" outside a repository."""
    git = ["git", "-C", str(Path(__file__).parent)]
    try:
        name, changes = (
            subprocess.run([*git, *arguments], capture_output=True, text=True, check=True, timeout=20).stdout.strip()
            for arguments in (["rev-parse", "HEAD"], ["status", "--porcelain", "--untracked-files=no"])
        )
    except (OSError, subprocess.SubprocessError):
        return "unknown"
    return f"{name} + changes" if changes else name
