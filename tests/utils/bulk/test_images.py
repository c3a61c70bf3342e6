"""What command-line arguments mean: files, folders and patterns in natural order, and lists in tables."""

import errno
import os

import pandas as pd
import pytest

from data.decode import EXTENSIONS
from utils.bulk.images import IMAGE_EXTENSIONS, FoundImages, find_images, read_list
from utils.errors import RunError


def test_folders_are_searched_in_natural_order_and_missing_files_are_kept(tmp_path):
    (tmp_path / "below").mkdir()
    for name in ("10.JPG", "2.png", "below/1.tif", "notes.txt"):
        (tmp_path / name).touch()
    in_folder = [str(tmp_path / name) for name in ("2.png", "10.JPG", "below/1.tif")]
    assert find_images([str(tmp_path), "missing.jpg"]).images == [*in_folder, "missing.jpg"]
    assert find_images([f"{tmp_path}/*.*", "a.jpg"]).images == [
        str(tmp_path / n) for n in ("2.png", "10.JPG", "notes.txt")
    ] + ["a.jpg"]


def test_a_file_whose_name_looks_like_a_pattern_is_a_file(tmp_path):
    (tmp_path / "photo[1].jpg").touch()
    assert find_images([str(tmp_path / "photo[1].jpg")]).images == [str(tmp_path / "photo[1].jpg")]


def test_tables_are_lists_only_on_request(tmp_path):
    path = str(tmp_path / "list.csv")
    pd.DataFrame({"image": ["a.jpg", "b.jpg"]}).to_csv(path, index=False)
    (tmp_path / "folder.csv").mkdir()
    (tmp_path / "folder.csv" / "c.jpg").touch()
    assert find_images([path]).images == [path]
    assert find_images([path, "d.jpg"], lists=True).images == ["a.jpg", "b.jpg", "d.jpg"]
    folder = str(tmp_path / "folder.csv")
    assert find_images([folder], lists=True).images == [f"{folder}/c.jpg"]


def test_lists_have_images_in_a_column(tmp_path):
    table = pd.DataFrame({"path": ["p.jpg", "q.jpg"], "image": ["007", "b,1.jpg"]})
    table.to_csv(tmp_path / "list.csv", index=False)
    table[["path"]].to_parquet(tmp_path / "list.PARQUET")
    assert list(read_list(tmp_path / "list.csv")) == ["007", "b,1.jpg"]
    assert list(read_list(tmp_path / "list.PARQUET")) == ["p.jpg", "q.jpg"]


def test_a_list_may_name_images_from_its_own_folder(tmp_path, monkeypatch):
    (tmp_path / "data").mkdir()
    (tmp_path / "here.jpg").touch()
    for name in ("here.jpg", "beside.jpg"):
        (tmp_path / "data" / name).touch()
    monkeypatch.chdir(tmp_path)
    pd.DataFrame({"image": ["here.jpg", "beside.jpg", "gone.jpg"]}).to_csv("data/list.csv", index=False)
    assert list(read_list("data/list.csv")) == ["here.jpg", "data/beside.jpg", "gone.jpg"]


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("list.csv", b"picture,mos\na.jpg,1\n", "picture, mos"),
        ("list.csv", b"image,mos\na.jpg,1\n,2\n", "row 2"),
        ("list.csv", b"image,mos\n", "empty"),
        ("list.csv", b"", "cannot be read"),
        ("list.csv", b"\xff\xfeimage", "cannot be read|needs a column"),
        ("list.csv", b"image,mos\na.jpg,1,\n", "line 2: 3 fields"),
        ("list.parquet", b"no Parquet", "cannot be read"),
        ("list.parquet", None, "no such list"),
    ],
)
def test_a_list_that_cannot_be_used_is_named_in_the_error(tmp_path, name, content, words):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(RunError, match=words) as raised:
        list(read_list(tmp_path / name))
    assert str(tmp_path / name) in str(raised.value)


def test_what_systems_and_programs_leave_behind_is_not_a_photograph(tmp_path):
    hidden = ["._a.jpg", ".ipynb_checkpoints/a.jpg", "@eaDir/a.jpg/thumb.jpg", "$RECYCLE.BIN/b.jpg", "__MACOSX/c.jpg"]
    hidden.append("page_files/uiqa_report_0123abcd/thumbnail/1.jpg")  # of predict.py --report
    for name in ("a.jpg", *hidden):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    assert find_images([str(tmp_path)]).images == [str(tmp_path / "a.jpg")]
    assert find_images([str(tmp_path / "._a.jpg")]).images == [str(tmp_path / "._a.jpg")], "named, it is meant"


def test_linked_folders_are_followed_and_loops_are_cut(tmp_path):
    folder, elsewhere = tmp_path / "folder", tmp_path / "elsewhere"
    for directory in (folder, elsewhere):
        directory.mkdir()
        (directory / f"{directory.name}.jpg").touch()
    (folder / "trip").symlink_to(elsewhere)
    (folder / "loop").symlink_to(folder)
    (folder / "itself").symlink_to("itself")
    assert find_images([str(folder)]).images == [f"{folder}/folder.jpg", f"{folder}/trip/elsewhere.jpg"]


@pytest.mark.parametrize("pattern", ["", "/*.jpg"])
def test_what_the_system_does_not_show_is_left_to_decoding_to_report(tmp_path, monkeypatch, pattern):
    names = ["broken.jpg", "dangling.jpg", "itself.jpg"]
    (tmp_path / "broken.jpg").touch()
    (tmp_path / "dangling.jpg").symlink_to("/nowhere.jpg")
    (tmp_path / "itself.jpg").symlink_to("itself.jpg")
    stat = os.stat

    def stat_or_fail(path, *words, **options):
        if str(path).endswith("broken.jpg"):
            raise OSError(errno.EIO, "Input/output error")
        return stat(path, *words, **options)

    monkeypatch.setattr(os, "stat", stat_or_fail)
    found = find_images([f"{tmp_path}{pattern}"])
    assert found.images == [str(tmp_path / name) for name in names]
    assert not found.problems


def test_a_pattern_here_gives_the_names_that_people_give(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("a.jpg", "b.jpg"):
        (tmp_path / name).touch()
    assert find_images(["a.jpg", "*.jpg", ".", "./*.jpg"]).images == ["a.jpg", "b.jpg"]


def test_of_names_that_are_equal_in_a_table_the_second_is_a_problem(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    byte, escape = "caf\udce9.jpg", r"caf\udce9.jpg"
    found = find_images([byte, escape, "a.jpg", byte])
    assert found.images == [byte, r"b'caf\\udce9.jpg'", "a.jpg"]
    assert found.problems == {
        found.images[1]: r"b'caf\\udce9.jpg': its name cannot be told from b'caf\xe9.jpg' in a table; rename it"
    }
    os.mkfifo(escape)
    found = find_images([byte, "*udce9.jpg"])
    assert list(found.problems) == [found.images[1]] == [r"b'caf\\udce9.jpg'"]


def test_a_pattern_below_a_folder_with_brackets_matches(tmp_path):
    (tmp_path / "trip [2024]").mkdir()
    (tmp_path / "trip [2024]" / "a.jpg").touch()
    assert find_images([f"{tmp_path}/trip [2024]/*.jpg"]).images == [f"{tmp_path}/trip [2024]/a.jpg"]


def test_an_argument_without_images_is_a_problem_of_its_own_and_the_others_are_found(tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "a.jpg").touch()
    folder, pattern, image = str(tmp_path / "empty"), f"{tmp_path}/*.png", str(tmp_path / "a.jpg")
    long_name, looping = "x" * 300 + ".jpg", str(tmp_path / "loop.jpg")
    os.symlink("loop.jpg", looping)
    found = find_images([folder, pattern, image, long_name, looping])
    assert found.images == [folder, pattern, image, long_name, looping]
    assert list(found.problems) == [folder, pattern]
    assert folder in found.problems[folder]
    assert "no image in this folder" in found.problems[folder]
    assert pattern in found.problems[pattern]
    assert "pattern" in found.problems[pattern]


def test_without_any_image_there_is_one_error(tmp_path):
    with pytest.raises(RunError, match=r"no image in this folder.*1 more"):
        find_images([str(tmp_path), f"{tmp_path}/*.jpg"])
    (tmp_path / "a.gif").touch()
    with pytest.raises(RunError, match=r"skipped 1 files that are not read: 1 \.gif"):
        find_images([str(tmp_path)])


def test_an_empty_argument_is_not_the_current_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.jpg").touch()
    with pytest.raises(RunError, match="empty"):
        find_images(["a.jpg", ""])


def test_a_folder_that_cannot_be_read_is_a_problem_wherever_it_is(tmp_path, monkeypatch):
    (tmp_path / "closed").mkdir()
    (tmp_path / "a.jpg").touch()
    scandir, closed = os.scandir, str(tmp_path / "closed")

    def scandir_or_refuse(path):
        if os.fspath(path) == closed:
            raise PermissionError(13, "Permission denied", path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", scandir_or_refuse)
    found = find_images([str(tmp_path)])
    assert found.images == [str(tmp_path / "a.jpg"), closed]
    assert found.problems == {closed: f"{closed}: this folder cannot be read: Permission denied"}
    with pytest.raises(RunError, match="Permission denied"):
        find_images([closed])


def test_other_images_in_a_folder_are_counted(tmp_path):
    for name in ("a.jpg", "b.gif", "c.GIF", "d.nef", "._e.gif", "notes.txt", "clip.mp4"):
        (tmp_path / name).touch()
    found = find_images([str(tmp_path)])
    assert not set(IMAGE_EXTENSIONS) & set(EXTENSIONS)
    assert found.images == [str(tmp_path / "a.jpg")]
    assert found.skipped_text() == "skipped 3 files that are not read: 2 .gif, 1 .nef"
    assert FoundImages([]).skipped_text() == ""


def test_pipes_and_devices_in_a_folder_are_problems_and_never_opened(tmp_path):
    (tmp_path / "a.jpg").touch()
    os.mkfifo(tmp_path / "pipe.jpg")
    (tmp_path / "zero.jpg").symlink_to("/dev/zero")
    for argument in (str(tmp_path), f"{tmp_path}/*.jpg"):
        found = find_images([argument])
        assert found.images == [f"{tmp_path}/a.jpg", f"{tmp_path}/pipe.jpg", f"{tmp_path}/zero.jpg"]
        assert list(found.problems) == found.images[1:]
        assert "a pipe, a socket or a device" in found.problems[f"{tmp_path}/pipe.jpg"]


def test_missing_values_in_other_columns_of_a_list_do_not_matter(tmp_path):
    counts = pd.array([1, None], dtype="Int64")
    pd.DataFrame({"count": counts, "image": ["a.jpg", "b.jpg"]}).to_parquet(tmp_path / "list.parquet")
    assert list(read_list(tmp_path / "list.parquet")) == ["a.jpg", "b.jpg"]
    pd.DataFrame({"image": ["a.jpg", None]}).to_parquet(tmp_path / "list.parquet")
    with pytest.raises(RunError, match="row 2 has no image"):
        list(read_list(tmp_path / "list.parquet"))
