"""The segments of JPEGs: scans that are missing, and tables that cannot be right."""

from io import BytesIO

import numpy as np
import pytest
from PIL import Image

from data.jpeg_segments import check_scans, read_frame, scan_data, segments

END = b"\xff\xd9"


def encode(**options) -> bytes:
    buffer = BytesIO()
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 96, 3), np.uint8))
    noise.save(buffer, "JPEG", **options)
    return buffer.getvalue()


def test_segments_and_data_of_a_baseline_jpeg():
    content = encode()
    codes = [code for code, *_ in segments(content)]
    assert codes[0] == 0xE0
    assert codes[-2:] == [0xDA, 0xD9]
    (start, end), *others = scan_data(content)
    assert not others
    assert content[end:] == END
    frame = read_frame(content)
    assert (frame.coding, frame.components, frame.data) == (0xC0, b"\1\2\3", start)
    check_scans(frame)


def test_a_progressive_jpeg_without_its_last_scans_is_refused():
    content = encode(progressive=True)
    ends = [end for _, end in scan_data(content)]
    assert len(ends) == 10
    check_scans(read_frame(content))
    for end in ends[:-1]:
        with pytest.raises(ValueError, match="scans are missing"):
            check_scans(read_frame(content[:end] + END))


def test_too_many_scans_are_refused():
    content = encode(progressive=True)
    (_, first), (_, second), *_ = scan_data(content)
    with pytest.raises(ValueError, match="210 scans; at most 200"):
        check_scans(read_frame(content[:-2] + content[first:second] * 200 + END))


def test_a_quantization_table_with_zeros_is_refused():
    content = encode()
    table = content.index(b"\xff\xdb") + 5
    with pytest.raises(ValueError, match="quantization"):
        read_frame(content[:table] + bytes(64) + content[table + 64 :])
    with pytest.raises(ValueError, match="quantization"):
        read_frame(content[: table + 9] + b"\0" + content[table + 10 :])
