"""What a file says of the model in it, in the formats whose metadata are pairs of strings: ONNX and safetensors.

`format` stands there as it is, every other entry as JSON.
"""

import json
from collections.abc import Mapping

ENTRIES = ("version", "model", "view_spec", "calibration", "branch_means", "options")


def encode(content: Mapping, form: str) -> dict[str, str]:
    """Return content as metadata.

    Args:
        content: some of ENTRIES, of plain values; finite numbers only, because JSON has no others.
        form: name of the format.
    """
    return {"format": form} | {name: json.dumps(content[name], allow_nan=False) for name in ENTRIES if name in content}


def decode(metadata: Mapping[str, str], form: str) -> dict | None:
    """Undo `encode`; entries that other tools have added are left out.

    Returns:
        `format` and the entries that are there, with whatever values the file has; None if it is of another format.

    Raises:
        ValueError, RecursionError: an entry is no JSON.
    """
    if metadata.get("format") != form:
        return None
    return {"format": form} | {name: _read(metadata[name]) for name in ENTRIES if name in metadata}


def _read(text: str) -> object:
    return json.loads(text, parse_constant=_refuse)


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is no JSON")
