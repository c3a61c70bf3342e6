"""Metadata: plain values as pairs of strings and back, nothing of other tools."""

import json

import pytest
import torch
from safetensors.torch import save_file

from utils.errors import CheckpointError
from utils.weights_file import DESCRIPTION, decode, encode, read_weights_file, unwrap_state_dict

CONTENT = {
    "version": 1,
    "view_spec": {"resize": 72, "views": ["aesthetic"]},
    "calibration": None,
    "options": {"lr": 0.1},
}


def test_what_was_encoded_is_decoded():
    metadata = encode(CONTENT, "ours")
    assert all(isinstance(text, str) for pair in metadata.items() for text in pair)
    assert decode(metadata, "ours") == CONTENT | {"format": "ours"}


def test_each_entry_is_json_for_readers_in_other_languages():
    assert json.loads(encode(CONTENT, "ours")["view_spec"]) == CONTENT["view_spec"]


def test_what_other_tools_wrote_is_left_alone():
    assert decode({"format": "pt"}, "ours") is None
    assert decode({}, "ours") is None
    assert decode(encode(CONTENT, "ours") | {"onnx.infer": "onnxruntime.quant"}, "ours") == CONTENT | {"format": "ours"}


def test_only_known_entries_are_written():
    assert set(encode(CONTENT | {"state_dict": object()}, "ours")) <= {"format", *DESCRIPTION}


@pytest.mark.parametrize("text", ["", "{", "NaN", "[Infinity]", "9" * 5000, "[" * 100_000])
def test_an_entry_that_is_no_json_is_an_error(text):
    with pytest.raises((ValueError, RecursionError)):
        decode(encode(CONTENT, "ours") | {"view_spec": text}, "ours")


def test_numbers_that_json_has_not_are_not_written():
    with pytest.raises(ValueError, match="JSON"):
        encode({"options": {"lr": float("nan")}}, "ours")


PAGE = "<!DOCTYPE html>\n<html><body>Sign in</body></html>\n"
POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 331500000\n"


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
@pytest.mark.parametrize(
    ("content", "kind"),
    [
        (PAGE, "web page"),
        ("\ufeff" + PAGE, "web page"),
        (POINTER, "Git LFS"),
        ('{"error": "rate limit"}', "JSON"),
        ("", "empty"),
    ],
)
def test_what_was_downloaded_in_place_of_weights_is_named_with_a_remedy(content, kind, suffix, tmp_path):
    path = tmp_path / f"weights{suffix}"
    path.write_text(content)
    with pytest.raises(CheckpointError, match=rf"weights\{suffix}.*{kind}.*dl=1"):
        read_weights_file(path)


def test_a_safetensors_header_of_any_length_is_not_taken_for_a_page(tmp_path):
    starts = set()
    for length in range(1, 260):
        save_file({"a" * length: torch.zeros(1)}, tmp_path / "w.safetensors")
        starts.add((tmp_path / "w.safetensors").read_bytes()[:1])
        assert list(read_weights_file(tmp_path / "w.safetensors")) == ["a" * length]
    assert len(starts) > 8


@pytest.mark.parametrize("name", ["state_dict", "model", "model_state_dict", "params"])
def test_a_wrapped_state_dict_is_unwrapped(name):
    state_dict = {"module.quality.0.bias": torch.zeros(1)}
    assert list(unwrap_state_dict({name: state_dict, "epoch": 3})) == ["quality.0.bias"]
    assert list(unwrap_state_dict(state_dict)) == ["quality.0.bias"]
