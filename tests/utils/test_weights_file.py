"""Metadata: plain values as pairs of strings and back, nothing of other tools."""

import json

import pytest

from utils.weights_file import DESCRIPTION, decode, encode

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
