"""Cells are text as they stand, and a row that does not fit its header is an error that names its line."""

import math

import pytest

from data.csv_files import CsvError, match_column, read_csv_table, to_numbers


def write(path, content: str, encoding: str = "utf-8"):
    (path / "table.csv").write_bytes(content.encode(encoding))
    return path / "table.csv"


@pytest.mark.parametrize("name", ["0001", "1.10", "NA", "None", "nan", "null", "True", "1e5", "1" * 23])
def test_names_that_look_like_numbers_or_nothing_stay_text(tmp_path, name):
    assert read_csv_table(write(tmp_path, f"image,mos\n{name},1\n"))["image"].tolist() == [name]


@pytest.mark.parametrize("row", ["a.jpg,1,", "a.jpg,61,1", "a.jpg,1,x,y"])
def test_a_row_with_more_fields_than_the_header_is_refused_by_its_line(tmp_path, row):
    with pytest.raises(CsvError, match=r"line 4: \d fields"):
        read_csv_table(write(tmp_path, f"image,mos\nb.jpg,2\n\n{row}\n"))


def test_a_shorter_row_ends_in_empty_cells(tmp_path):
    assert read_csv_table(write(tmp_path, "image,mos,split\na.jpg,1\n")).iloc[0].tolist() == ["a.jpg", "1", ""]


@pytest.mark.parametrize(
    "content", ["image;mos\na.jpg;61,5\n", "image\tmos\na.jpg\t61,5\n", 'image,mos\na.jpg,"61,5"\n']
)
def test_the_header_decides_the_delimiter(tmp_path, content):
    assert read_csv_table(write(tmp_path, content)).iloc[0].tolist() == ["a.jpg", "61,5"]


def test_spaces_around_names_and_cells_and_empty_lines_do_not_count(tmp_path):
    table = read_csv_table(write(tmp_path, "\nimage , mos, split\n a.jpg , 1 , test\n\n,,\nb.jpg,2,test\n"))
    assert list(table) == ["image", "mos", "split"]
    assert table.to_numpy().tolist() == [["a.jpg", "1", "test"], ["b.jpg", "2", "test"]]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_byte_order_marks_do_not_count(tmp_path, encoding):
    assert read_csv_table(write(tmp_path, "image\ncafé.jpg\n", encoding))["image"].tolist() == ["café.jpg"]


@pytest.mark.parametrize(
    ("content", "cause"),
    [
        (b"", "empty"),
        (b"image\ncaf\xe9.jpg\n", "save it as UTF-8"),
        ("image\na.jpg\n".encode("utf-16-le"), "save it as UTF-8"),
        (b"image,mos,mos\n", "more than once; is the first line the header"),
        (b"# by us\nimage,mos\n", r"the header \(# by us\) has 1"),
        (b'a\n"b\n', "line 2"),
    ],
)
def test_what_is_not_a_table_is_one_clear_error(tmp_path, content, cause):
    (tmp_path / "table.csv").write_bytes(content)
    with pytest.raises(CsvError, match=cause):
        read_csv_table(tmp_path / "table.csv")


def test_numbers_are_pythons_and_everything_else_is_nan(tmp_path):
    table = read_csv_table(write(tmp_path, "n\n0.1\n1e400\n1_000\n61%\n0x10\nTrue\n"))
    numbers = to_numbers(table["n"]).tolist()
    assert numbers[:2] == [0.1, math.inf]
    assert all(math.isnan(number) for number in numbers[2:])


def test_a_column_is_matched_in_any_case_if_there_is_only_one(tmp_path):
    assert list(match_column(read_csv_table(write(tmp_path, "Image,MOS\n")), "image")) == ["image", "MOS"]
    assert list(match_column(read_csv_table(write(tmp_path, "Image,IMAGE\n")), "image")) == ["Image", "IMAGE"]


@pytest.mark.parametrize("sign", ["\x85", "\u2028", "\u2029", "\x0b", "\x0c", "\x1c"])
def test_only_newlines_end_a_row(tmp_path, sign):
    assert read_csv_table(write(tmp_path, f"image,mos\na{sign}b.jpg,1\n"))["image"].tolist() == [f"a{sign}b.jpg"]


@pytest.mark.parametrize("newline", ["\n", "\r\n", "\r"])
def test_rows_end_in_the_newlines_of_any_system(tmp_path, newline):
    content = newline.join(["image,mos", "a.jpg,1", '"b,c.jpg",2', ""])
    assert read_csv_table(write(tmp_path, content))["image"].tolist() == ["a.jpg", "b,c.jpg"]
