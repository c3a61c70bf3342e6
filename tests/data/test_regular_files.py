"""Only regular files of a possible size are read."""

import os
import socket
import tempfile
from pathlib import Path

import pytest

from data.decode import ImageError, decode_rgb, decode_thumbnail, image_size
from data.regular_files import check_file, read_file

READERS = [decode_rgb, image_size, lambda path: decode_thumbnail(path, 10)]


@pytest.mark.parametrize("reader", READERS)
def test_a_fifo_is_refused_without_waiting_for_a_writer(reader, tmp_path):
    os.mkfifo(tmp_path / "photo.jpg")
    with pytest.raises(ImageError, match=r"photo\.jpg: .*a FIFO, not a regular file"):
        reader(tmp_path / "photo.jpg")


@pytest.mark.parametrize("reader", READERS)
def test_a_device_a_folder_and_a_link_to_one_are_refused(reader, tmp_path):
    (tmp_path / "link.jpg").symlink_to("/dev/zero")
    for path, kind in (("/dev/zero", "a device"), (tmp_path / "link.jpg", "a device"), (tmp_path, "a directory")):
        with pytest.raises(ImageError, match=kind):
            reader(path)


def test_a_socket_is_refused():
    with tempfile.TemporaryDirectory() as folder, socket.socket(socket.AF_UNIX) as server:
        server.bind(f"{folder}/photo.jpg")
        with pytest.raises(ValueError, match="a socket"):
            check_file(f"{folder}/photo.jpg", 1)


@pytest.mark.parametrize("reader", READERS)
def test_a_sparse_file_of_20_gigabytes_is_refused_before_it_is_read(reader, tmp_path):
    path = tmp_path / "photo.jpg"
    with path.open("wb") as file:
        file.write(b"\xff\xd8\xff\xe0")
        file.truncate(20 << 30)
    with pytest.raises(ImageError, match=r"21474836480 bytes are more than .*--max_pixels 160000000"):
        reader(path)


def test_a_regular_file_is_read_and_a_missing_one_is_an_os_error(tmp_path: Path):
    (tmp_path / "a").write_bytes(b"content")
    assert read_file(tmp_path / "a", 1) == b"content"
    with pytest.raises(FileNotFoundError):
        read_file(tmp_path / "b", 1)
