"""Files of weights: written atomically, read without executing code.

Two formats hold a model: torch files (`.pth`) and `.safetensors`. Safetensors and ONNX files can only hold pairs of
strings beside their tensors; `encode` and `decode` keep the description of the model in these.
"""

import json
import os
import re
import shutil
import zipfile
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import load_file

from data.files import one_line, replace_file
from utils.errors import CheckpointError

FORMAT = "uiqa-checkpoint"
PICKLE_START, ZIP_START = b"\x80", b"P"
VERSION = 2  # 2: the view specification holds its table of fractions
DESCRIPTION = (  # metadata entries
    *("version", "model", "normalisation", "view_spec", "calibration", "branch_means", "options", "sources"),
    *("fingerprint", "input"),
)

WHERE_TO_GET_WEIGHTS = (
    "Leave --checkpoint out of predict.py to score with the model of the repository, train one (`python train.py "
    "--help`; `make demo` writes ckpts/demo/best.pth), or download the authors' UIQA.pth and UIQA.npy into ckpts/ "
    "(links: https://github.com/sunwei925/UIQA)"
)


def write_weights_file(path: str | os.PathLike, content: dict, keep_previous: bool = False) -> None:
    """Write a checkpoint file; its name always leads to the old file or to the complete new one.

    Args:
        path: its folder must exist.
        content: tensors, dicts, lists, str, int, float, bool and None only, so that loading never runs code.
        keep_previous: keep the file that is replaced beside it, see `previous_of`.

    Raises:
        CheckpointError: it cannot be written, for example because the disk is full; the old file is untouched.
    """
    path = Path(path)
    try:
        with replace_file(path) as unfinished:
            torch.save({"format": FORMAT, "version": VERSION, **content}, unfinished)
            if keep_previous and path.exists():
                _keep_previous(path)
    except (OSError, RuntimeError) as error:  # torch's own writer raises RuntimeError
        remedy = f"{path} still holds the last good one" if path.exists() else "there is no earlier one"
        raise CheckpointError(
            f"{path}: the checkpoint cannot be written ({one_line(error)}); {remedy}. Free some space, then continue "
            "with --resume auto"
        ) from error


def _keep_previous(path: Path) -> None:
    """Give a checkpoint that is about to be replaced a second name, so that a whole one exists at every moment."""
    with replace_file(previous_of(path)) as second:
        second.unlink(missing_ok=True)
        try:
            os.link(path, second)
        except OSError:  # a file system without hard links
            shutil.copyfile(path, second)


def previous_of(path: str | os.PathLike) -> Path:
    """Return where the checkpoint before this one is kept: previous.pth beside last.pth."""
    return Path(path).with_name("previous.pth")


def read_weights_file(path: str | os.PathLike) -> dict:
    """Read a `.safetensors` or torch file onto the CPU with `weights_only=True`, so that no code in it is run.

    A `.safetensors` file of `export.py` gives what a checkpoint of ours gives.

    Raises:
        CheckpointError: missing, damaged, or with content other than tensors and plain values.
    """
    path = Path(path)
    if path.is_dir():
        raise CheckpointError(f"{path}: is a folder; give the file, for example {path / 'best.pth'}")
    if not path.is_file():
        raise CheckpointError(f"{path}: no such checkpoint. {WHERE_TO_GET_WEIGHTS}")
    check_download(path)
    try:
        if path.suffix == ".safetensors":
            content = _read_safetensors(path)
        else:
            _check_archive(path)
            content = torch.load(path, map_location="cpu", weights_only=True)
            if isinstance(content, dict) and content.get("format") == FORMAT:
                _check_checksums(path)
    except Exception as error:  # zip, pickle and torch each raise their own exceptions for damaged files
        if "weights_only" in str(error).lower() or "Unsupported" in str(error):
            cause = "it holds objects other than tensors and plain values, which could run code; they are not loaded"
        else:
            cause = f"it is damaged or not a checkpoint ({type(error).__name__}: {one_line(error)})"
        raise CheckpointError(f"{path}: cannot be loaded: {cause}") from error
    if not isinstance(content, dict) or not content or not all(isinstance(key, str) for key in content):
        raise CheckpointError(f"{path}: does not contain a state dict (weights by name)")
    return dict(dict.items(content))  # plain: a pickled OrderedDict may hide its own methods behind attributes


def check_download(path: Path) -> None:
    """Refuse what is often saved in place of a download; a missing file passes.

    Raises:
        CheckpointError: it is empty, a web page, a JSON message or a Git LFS pointer; the message says how to download.
    """
    if not path.is_file():
        return
    with path.open("rb") as file:
        start = file.read(200).removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    is_text = b"\0" not in start
    if not start:
        kind = "is empty"
    elif is_text and start.startswith(b"<"):
        kind = "is a web page"
    elif is_text and start.startswith(b"{"):
        kind = "is a message in JSON"
    elif start.startswith(b"version https://git-lfs"):
        kind = "is a Git LFS pointer"
    else:
        return
    raise CheckpointError(
        f"{path}: {kind}, not the file itself. Download it again: Dropbox links must end in dl=1, and files of "
        "Git LFS come with `git lfs pull`"
    )


def _read_safetensors(path: Path) -> dict:
    """Return the tensors of a file and, if `export.py` wrote it, the model's description from its header."""
    with safe_open(path, "pt") as file:
        description = decode(file.metadata() or {}, FORMAT)
    state_dict = load_file(path)
    if description is None:
        return state_dict
    return description | {"state_dict": state_dict, "mos_scale": {"mean": 0.0, "sd": 1.0}}  # already folded in


def _check_checksums(path: Path) -> None:
    """Compare the checksums of the entries, which torch does not: a flipped bit would pass for a weight."""
    with zipfile.ZipFile(path) as archive:
        damaged = archive.testzip()
    if damaged:
        raise ValueError(f"the checksum of {damaged} does not match")


def _check_archive(path: Path) -> None:
    """Refuse what torch cannot have written.

    That is a file that is neither a zip nor a pickle, or a zip with compressed entries, with which a small file could
    fill the memory.
    """
    if not zipfile.is_zipfile(path):
        with path.open("rb") as file:
            start = file.read(16)
        if start[:1] not in (PICKLE_START, ZIP_START):
            raise ValueError(f"it begins with {start!r}, and no file of weights does")
        return
    with zipfile.ZipFile(path) as archive:
        if any(entry.file_size > entry.compress_size for entry in archive.infolist()):
            raise ValueError("its entries are compressed")


def is_ours(content: dict, path: str | os.PathLike) -> bool:
    """Return whether a file's content is a checkpoint of this project that this version can read.

    Raises:
        CheckpointError: it is one, but damaged or written by a newer version.
    """
    if content.get("format") != FORMAT:
        return False
    state_dict = content.get("state_dict")
    has_names = isinstance(state_dict, dict) and all(isinstance(key, str) for key in dict.keys(state_dict))
    if not has_names or not isinstance(content.get("version"), int):
        raise CheckpointError(f"{path}: damaged: it lacks a version number or a state dict")
    if content["version"] > VERSION:
        raise CheckpointError(f"{path}: written by a newer version of this project ({content['version']}); update it")
    return True


def unwrap_state_dict(content: dict) -> dict:
    """Return the state dict of a file, also if it is the only dict of tensors under one of the usual names.

    Key prefixes of DataParallel and torch.compile are removed, in any order.
    """
    for name in ("state_dict", "model", "model_state_dict", "params"):
        inner = content.get(name)
        if isinstance(inner, dict) and any(isinstance(value, torch.Tensor) for value in dict.values(inner)):
            return without_prefix(inner)
    return without_prefix(content)


def without_prefix(state_dict: dict) -> dict:
    """Return a state dict without the key prefixes of DataParallel and torch.compile, in any order."""
    return {re.sub(r"^((module|_orig_mod)\.)+", "", key): value for key, value in dict.items(state_dict)}


def load_strictly(module: torch.nn.Module, state_dict: dict, path: str | os.PathLike) -> None:
    """Load a state dict with `strict=True`.

    Raises:
        CheckpointError: keys or shapes do not match; the message names them.
    """
    try:
        module.load_state_dict(dict(dict.items(state_dict)), strict=True)
    except (RuntimeError, AttributeError, TypeError) as error:
        expected = module.state_dict()
        mismatches = {
            "missing keys": sorted(expected.keys() - state_dict.keys()),
            "unknown keys": sorted(state_dict.keys() - expected.keys()),
            "wrong shapes": [
                f"{key} {tuple(state_dict[key].shape)} for {tuple(value.shape)}"
                for key, value in expected.items()
                if isinstance(state_dict.get(key), torch.Tensor) and state_dict[key].shape != value.shape
            ],
        }
        faults = [
            f"{len(names)} {kind} ({', '.join(names[:3])}{', ...' if len(names) > 3 else ''})"
            for kind, names in mismatches.items()
            if names
        ]
        raise CheckpointError(
            f"{path}: its weights do not fit {type(module).__name__}: {'; '.join(faults) or one_line(error)}. "
            "Is it a checkpoint of another model or backbone?"
        ) from error


def encode(content: Mapping, file_format: str) -> dict[str, str]:
    """Return a model's description as metadata: `format` as it is, the other entries as JSON.

    Args:
        content: plain values by name; only the entries in DESCRIPTION are written, and numbers must be finite.
        file_format: the value of `format`.
    """
    entries = {name: json.dumps(content[name], allow_nan=False) for name in DESCRIPTION if name in content}
    return {"format": file_format} | entries


def decode(metadata: Mapping[str, str], file_format: str) -> dict | None:
    """Undo `encode`; entries that other tools have added are left out.

    Returns:
        `format` and the entries that are present; None if the file has another format.

    Raises:
        ValueError, RecursionError: an entry is not JSON.
    """
    if metadata.get("format") != file_format:
        return None
    entries = {name: _parse_json(metadata[name]) for name in DESCRIPTION if name in metadata}
    return {"format": file_format} | entries


def _parse_json(text: str) -> object:
    def refuse(constant: str) -> None:
        raise ValueError(f"{constant} is not JSON")

    return json.loads(text, parse_constant=refuse)
