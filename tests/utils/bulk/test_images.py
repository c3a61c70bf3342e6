"""What command-line arguments mean: files, folders and patterns in natural order, and lists in tables."""

import pandas as pd
import pytest

from utils.bulk.images import find_images, read_list
from utils.errors import RunError


def test_folders_are_searched_in_natural_order_and_missing_files_are_kept(tmp_path):
    (tmp_path / "below").mkdir()
    for name in ("10.JPG", "2.png", "below/1.tif", "notes.txt"):
        (tmp_path / name).touch()
    in_folder = [str(tmp_path / name) for name in ("2.png", "10.JPG", "below/1.tif")]
    assert list(find_images([str(tmp_path), "missing.jpg"])) == [*in_folder, "missing.jpg"]
    assert list(find_images([f"{tmp_path}/*.*", "a.jpg"])) == [
        str(tmp_path / n) for n in ("2.png", "10.JPG", "notes.txt")
    ] + ["a.jpg"]


def test_a_file_whose_name_looks_like_a_pattern_is_a_file(tmp_path):
    (tmp_path / "photo[1].jpg").touch()
    assert list(find_images([str(tmp_path / "photo[1].jpg")])) == [str(tmp_path / "photo[1].jpg")]


def test_tables_are_lists_only_on_request(tmp_path):
    path = str(tmp_path / "list.csv")
    pd.DataFrame({"image": ["a.jpg", "b.jpg"]}).to_csv(path, index=False)
    (tmp_path / "folder.csv").mkdir()
    (tmp_path / "folder.csv" / "c.jpg").touch()
    assert list(find_images([path])) == [path]
    assert list(find_images([path, "d.jpg"], lists=True)) == ["a.jpg", "b.jpg", "d.jpg"]
    folder = str(tmp_path / "folder.csv")
    assert list(find_images([folder], lists=True)) == [f"{folder}/c.jpg"]


def test_lists_have_images_in_a_column(tmp_path):
    table = pd.DataFrame({"path": ["p.jpg", "q.jpg"], "image": ["007", "b,1.jpg"]})
    table.to_csv(tmp_path / "list.csv", index=False)
    table[["path"]].to_parquet(tmp_path / "list.PARQUET")
    assert list(read_list(tmp_path / "list.csv")) == ["007", "b,1.jpg"]
    assert list(read_list(tmp_path / "list.PARQUET")) == ["p.jpg", "q.jpg"]


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
    for name in ("a.jpg", *hidden):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    assert list(find_images([str(tmp_path)])) == [str(tmp_path / "a.jpg")]
    assert list(find_images([str(tmp_path / "._a.jpg")])) == [str(tmp_path / "._a.jpg")], "named, it is meant"


def test_linked_folders_are_followed_and_loops_are_cut(tmp_path):
    folder, elsewhere = tmp_path / "folder", tmp_path / "elsewhere"
    for directory in (folder, elsewhere):
        directory.mkdir()
        (directory / f"{directory.name}.jpg").touch()
    (folder / "trip").symlink_to(elsewhere)
    (folder / "loop").symlink_to(folder)
    (folder / "dangling.jpg").symlink_to("/nowhere.jpg")
    (folder / "itself.jpg").symlink_to("itself.jpg")
    assert list(find_images([str(folder)])) == [f"{folder}/folder.jpg", f"{folder}/trip/elsewhere.jpg"]


def test_a_pattern_below_a_folder_with_brackets_matches(tmp_path):
    (tmp_path / "trip [2024]").mkdir()
    (tmp_path / "trip [2024]" / "a.jpg").touch()
    assert list(find_images([f"{tmp_path}/trip [2024]/*.jpg"])) == [f"{tmp_path}/trip [2024]/a.jpg"]
