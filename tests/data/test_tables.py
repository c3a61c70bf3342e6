"""Splits, image paths, and images without opinions."""

import unicodedata
from pathlib import Path

import pandas as pd
import pytest
from label_tables import FULL, TRAINING_ONLY, labels, make, published_split, rows
from PIL import Image

from data.tables import TableError, load_table


class TestSplits:
    def test_the_full_label_file_decides_the_split(self, tmp_path):
        table = load_table("UHD_IQA", make(tmp_path, labels()))
        assert [rows(table, split) for split in ("train", "val", "test")] == [
            [*range(10)],
            [10, 11, 12],
            [13, 14, 15],
        ]
        assert table.notes == ()
        assert table.source == tmp_path / FULL

    def test_the_official_split_does_not_depend_on_the_seed(self, tmp_path):
        make(tmp_path, labels())
        first, other = (load_table("UHD_IQA", tmp_path, random_seed=seed).frame for seed in (0, 1))
        assert first.equals(other)

    @pytest.mark.parametrize(("n", "seed"), [(10, 0), (13, 1000), (2, 5), (101, 2**32 - 1)])
    def test_the_training_only_file_is_divided_as_in_the_published_code(self, tmp_path, n, seed):
        make(tmp_path, labels(["training"] * n), TRAINING_ONLY)
        table = load_table("UHD_IQA", tmp_path, ("train", "val"), random_seed=seed)
        assert (rows(table, "train"), rows(table, "val")) == published_split(n, seed)
        assert str(seed) in table.split_rule

    def test_without_a_validation_image_the_training_rows_are_divided_and_a_note_says_so(self, tmp_path):
        make(tmp_path, labels())
        for path in (tmp_path / "validation").iterdir():
            path.unlink()
        table = load_table("UHD_IQA", tmp_path, random_seed=7)
        assert (rows(table, "train"), rows(table, "val")) == published_split(10, 7)
        assert rows(table, "test") == [13, 14, 15]
        assert len(table.notes) == 1
        assert "none of the 3 official validation images" in table.notes[0]

    def test_the_test_split_alone_needs_no_validation_image(self, tmp_path):
        make(tmp_path, labels())
        for path in (tmp_path / "validation").iterdir():
            path.unlink()
        table = load_table("UHD_IQA", tmp_path, ("test",))
        assert rows(table, "test") == [13, 14, 15]
        assert table.notes == ()

    def test_if_one_validation_image_exists_all_must_exist(self, tmp_path):
        make(tmp_path, labels())
        (tmp_path / "validation/11.jpg").unlink()
        with pytest.raises(TableError, match=r"1 of the 13 images.*11\.jpg"):
            load_table("UHD_IQA", tmp_path, ("train", "val"))

    def test_the_split_is_the_same_whether_one_or_both_sides_are_requested(self, tmp_path):
        make(tmp_path, labels(["training"] * 20), TRAINING_ONLY)
        both = load_table("UHD_IQA", tmp_path, ("train", "val"), random_seed=3)
        for split in ("train", "val"):
            assert rows(load_table("UHD_IQA", tmp_path, (split,), random_seed=3), split) == rows(both, split)

    def test_a_split_that_would_be_empty_is_an_error(self, tmp_path):
        make(tmp_path, labels(["training"] * 10), TRAINING_ONLY)
        with pytest.raises(TableError, match=r"the test split .* is empty.*--metadata"):
            load_table("UHD_IQA", tmp_path, ("test",))


class TestSplitBy:
    def authors(self, folder: Path) -> Path:
        sets = ["training"] * 30 + ["validation"] * 10 + ["test"] * 10
        return make(folder, labels(sets, user_name=[f"author {number % 17}" for number in range(50)]))

    @pytest.mark.parametrize("seed", range(5))
    def test_no_group_is_divided_and_the_test_set_stays_as_it_is(self, tmp_path, seed):
        table = load_table("UHD_IQA", self.authors(tmp_path), random_seed=seed, split_by="user_name")
        train, val = table.split("train"), table.split("val")
        assert not set(train["user_name"]) & set(val["user_name"])
        assert sorted([*train.index, *val.index]) == [*range(40)]
        assert rows(table, "test") == [*range(40, 50)]
        assert 0.65 <= len(train) / 40 <= 0.8
        assert "user_name" in table.split_rule

    def test_the_seed_decides_which_groups_validate(self, tmp_path):
        self.authors(tmp_path)
        first, again, other = (
            rows(load_table("UHD_IQA", tmp_path, random_seed=seed, split_by="user_name"), "val") for seed in (1, 1, 2)
        )
        assert first == again != other

    def test_an_unknown_column_is_an_error_that_lists_the_known_ones(self, tmp_path):
        with pytest.raises(TableError, match=r"photographer: no such column; .*user_name"):
            load_table("UHD_IQA", self.authors(tmp_path), split_by="photographer")

    def test_rows_without_a_group_are_one_group(self, tmp_path):
        names = [None if number % 5 == 0 else f"author {number}" for number in range(40)]
        make(tmp_path, labels(["training"] * 40, user_name=names), TRAINING_ONLY)
        table = load_table("UHD_IQA", tmp_path, ("train", "val"), split_by="user_name")
        sides = table.frame.loc[[*range(0, 40, 5)], "split"]
        assert sides.nunique() == 1

    def test_a_single_group_cannot_be_divided(self, tmp_path):
        make(tmp_path, labels(["training"] * 10), TRAINING_ONLY)
        with pytest.raises(TableError, match=r"--split_by user_name: .* cannot be divided .* 100% of the rows"):
            load_table("UHD_IQA", tmp_path, ("train", "val"), split_by="user_name")

    @pytest.mark.parametrize("seed", range(3))
    def test_a_group_of_most_rows_turns_the_split_around_in_no_order(self, tmp_path, seed):
        names = ["busy"] * 36 + ["rare"] * 4
        make(tmp_path, labels(["training"] * 40, user_name=names), TRAINING_ONLY)
        with pytest.raises(TableError, match=r"'busy' has 90% of the rows"):
            load_table("UHD_IQA", tmp_path, ("train", "val"), random_seed=seed, split_by="user_name")

    @pytest.mark.parametrize("option", ["split_by", "source_column"])
    def test_a_column_of_the_file_that_ours_replaces_is_not_read_in_its_place(self, tmp_path, option):
        Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
        (tmp_path / "labels.csv").write_text("file,mos,image\na.png,1,scene 1\n")
        options = {"metadata": tmp_path / "labels.csv", "image_column": "file", option: "image"}
        with pytest.raises(TableError, match=f"--{option} image: .*rename the column"):
            load_table("csv", tmp_path, ("all",), **options)


class TestPaths:
    @pytest.mark.parametrize(
        ("layout", "database_dir"),
        [("{set}/{image_name}", ""), ("{set}/{image_name}", "training"), ("{image_name}", "")],
    )
    def test_images_are_found_in_each_layout(self, tmp_path, layout, database_dir):
        frame = labels()
        make(tmp_path, frame, layout=layout)
        table = load_table("UHD_IQA", tmp_path / database_dir).frame
        expected = [(tmp_path / layout.format(**row)).resolve() for row in frame.to_dict("records")]
        assert [Path(path).resolve() for path in table["path"]] == expected

    def test_the_folder_may_be_relative(self, tmp_path, monkeypatch):
        make(tmp_path, labels())
        for folder in (".", "training", "../" + tmp_path.name, "training/.."):
            monkeypatch.chdir(tmp_path)
            paths = load_table("UHD_IQA", folder).frame["path"]
            assert all(Path(path).is_file() for path in paths)

    def test_the_folder_may_be_a_link_to_one_of_the_splits(self, tmp_path, monkeypatch):
        make(tmp_path / "data", labels())
        (tmp_path / "elsewhere").mkdir()
        link = tmp_path / "elsewhere" / "images"
        link.symlink_to(tmp_path / "data" / "training")
        expected = load_table("UHD_IQA", tmp_path / "data").frame
        monkeypatch.chdir(tmp_path / "data" / "training")
        for folder in (link, ".", ".."):
            frame = load_table("UHD_IQA", folder).frame
            pd.testing.assert_series_equal(frame["split"], expected["split"])

    def test_a_link_to_nothing_is_a_missing_image(self, tmp_path):
        frame = labels()
        make(tmp_path, frame)
        path = Path(load_table("UHD_IQA", tmp_path).frame["path"][0])
        path.unlink()
        path.symlink_to(tmp_path / "gone.jpg")
        with pytest.raises(TableError, match=path.name):
            load_table("UHD_IQA", tmp_path)
        assert len(load_table("UHD_IQA", tmp_path, skip_missing=True).frame) == len(frame) - 1

    def test_a_label_file_given_by_name_is_taken_from_there(self, tmp_path):
        make(tmp_path / "images", labels(["training"] * 5), "ignored.csv", layout="{image_name}")
        make(tmp_path / "elsewhere", labels(["training"] * 4), "mine.csv", layout="{image_name}")
        table = load_table(
            "UHD_IQA", tmp_path / "images", ("train", "val"), metadata=tmp_path / "elsewhere" / "mine.csv"
        )
        assert len(table.frame) == 4
        assert {Path(path).parent for path in table.frame["path"]} == {tmp_path / "images"}

    def test_only_images_of_the_requested_splits_must_exist(self, tmp_path):
        make(tmp_path, labels())
        for path in (tmp_path / "test").iterdir():
            path.unlink()
        table = load_table("UHD_IQA", tmp_path, ("train", "val"))
        assert rows(table, "test") == [13, 14, 15]
        assert table.split("test")["path"].isna().all()
        assert table.split("train")["path"].notna().all()
        with pytest.raises(TableError, match="3 of the 3 images"):
            load_table("UHD_IQA", tmp_path, ("test",))

    def test_missing_images_are_listed_with_the_folder_and_the_remedies(self, tmp_path):
        make(tmp_path, labels(["training"] * 30 + ["validation"]))
        for number in range(3, 24):
            (tmp_path / f"training/{number}.jpg").unlink()
        with pytest.raises(TableError) as caught:
            load_table("UHD_IQA", tmp_path, ("train", "val"))
        message = str(caught.value)
        assert message.startswith("21 of the 31 images")
        assert str(tmp_path) in message
        assert "3.jpg, 4.jpg" in message
        assert "12.jpg and 11 more" in message
        assert "--database_dir" in message
        assert "--skip_missing" in message

    def test_skipping_missing_images_leaves_the_other_rows_their_index(self, tmp_path):
        make(tmp_path, labels())
        whole = load_table("UHD_IQA", tmp_path).frame
        for name in ("training/2.jpg", "validation/11.jpg"):
            (tmp_path / name).unlink()
        table = load_table("UHD_IQA", tmp_path, skip_missing=True)
        assert table.frame.equals(whole.drop([2, 11]))
        assert len(table.notes) == 1
        assert "2.jpg, 11.jpg" in table.notes[0]

    def test_skipping_missing_images_does_not_move_the_others_to_another_split(self, tmp_path):
        make(tmp_path, labels(["training"] * 20), TRAINING_ONLY)
        (tmp_path / "training/4.jpg").unlink()
        table = load_table("UHD_IQA", tmp_path, ("train", "val"), random_seed=9, skip_missing=True)
        train, val = published_split(20, 9)
        assert rows(table, "train") == [row for row in train if row != 4]
        assert rows(table, "val") == [row for row in val if row != 4]

    def test_skipping_everything_leaves_an_empty_split_which_is_an_error(self, tmp_path):
        labels().to_csv(tmp_path / FULL, index=False)
        with pytest.raises(TableError, match=r"the test split .* is empty"):
            load_table("UHD_IQA", tmp_path, ("test",), skip_missing=True)


class TestOpinions:
    @pytest.mark.parametrize("opinion", ["", "nan", "inf", "-inf", "good"])
    def test_an_opinion_that_is_not_a_finite_number_is_an_error_or_left_out(self, tmp_path, opinion):
        make(tmp_path, labels(quality_mos=["0.5"] * 5 + [opinion] + ["0.5"] * 10))
        with pytest.raises(TableError, match=r"1 opinions are not finite.*5\.jpg.*--skip_missing"):
            load_table("UHD_IQA", tmp_path)
        table = load_table("UHD_IQA", tmp_path, skip_missing=True)
        assert table.frame.index.tolist() == [*range(5), *range(6, 16)]
        assert any("1 opinions are not finite" in note for note in table.notes)


class TestRealLabelFiles:
    def test_the_full_file_has_the_official_split(self, uhd_iqa_dir):
        table = load_table("UHD_IQA", uhd_iqa_dir, splits=(), metadata=uhd_iqa_dir / FULL)
        assert table.frame["split"].value_counts().to_dict() == {"train": 4269, "val": 904, "test": 900}
        assert table.frame["mos"].between(0, 1).all()

    def test_the_training_only_file_has_the_published_split(self, uhd_iqa_dir):
        table = load_table("UHD_IQA", uhd_iqa_dir, (), uhd_iqa_dir / TRAINING_ONLY, random_seed=1000)
        assert (rows(table, "train"), rows(table, "val")) == published_split(4269, 1000)
        assert (len(table.split("train")), len(table.split("val"))) == (3415, 854)

    def test_no_photographer_is_on_both_sides(self, uhd_iqa_dir):
        table = load_table("UHD_IQA", uhd_iqa_dir, (), uhd_iqa_dir / FULL, split_by="user_name")
        train, val = (set(table.split(split)["user_name"]) for split in ("train", "val"))
        assert train
        assert val
        assert not train & val
        assert len(table.split("test")) == 900


@pytest.fixture
def pictures(tmp_path) -> Path:
    """A folder with three images, whose names are Unicode in decomposed form, in a subfolder, and plain."""
    (tmp_path / "images").mkdir()
    for name in (unicodedata.normalize("NFD", "café.jpg"), "images/b.jpg", "c.jpg"):
        (tmp_path / name).write_bytes(b"picture")
    return tmp_path


def load_names(folder: Path, header: str, *names: str) -> list[str]:
    rows = [header, *(f"{name},{number},test" for number, name in enumerate(names))]
    (folder / "labels.csv").write_text("\n".join(rows) + "\n", encoding="utf-8")
    table = load_table("csv", folder, splits=("test",), metadata=folder / "labels.csv")
    return [Path(path).name for path in table.split("test")["path"]]


def test_names_that_differ_in_slashes_case_or_unicode_form_are_found(pictures):
    found = load_names(pictures, "image,mos,split", unicodedata.normalize("NFC", "café.jpg"), "images\\b.jpg", "C.JPG")
    assert [unicodedata.normalize("NFC", name) for name in found] == ["café.jpg", "b.jpg", "c.jpg"]


def test_a_name_that_two_files_resemble_is_missing(pictures):
    (pictures / "C.jpg").write_bytes(b"picture")
    with pytest.raises(TableError, match=r"1 of the 1 images.*c\.JPG"):
        load_names(pictures, "image,mos,split", "c.JPG")


def test_one_file_under_two_names_is_an_error(pictures):
    with pytest.raises(TableError, match="more than once"):
        load_names(pictures, "image,mos,split", "c.jpg", "C.JPG")


@pytest.mark.parametrize("name", ["./c.jpg", "images/../c.jpg", "images/.././c.jpg"])
def test_one_file_by_two_ways_is_an_error(pictures, name):
    with pytest.raises(TableError, match="more than once"):
        load_names(pictures, "image,mos,split", "c.jpg", name)


def test_spaces_around_a_files_name_do_not_hide_it(pictures):
    (pictures / " lead.jpg").write_bytes(b"picture")
    assert load_names(pictures, "image,mos,split", " lead.jpg") == [" lead.jpg"]


@pytest.mark.parametrize("header", ["image,mos, split", "Image,MOS,Split"])
def test_a_header_in_other_case_or_with_spaces_is_not_passed_over(pictures, header):
    assert load_names(pictures, header, "c.jpg") == ["c.jpg"]


def test_splits_under_another_name_are_not_trained_on_in_silence(pictures):
    with pytest.raises(TableError, match="--split_column set"):
        load_names(pictures, "image,mos,set", "c.jpg")


def test_a_missing_header_is_named(pictures):
    with pytest.raises(TableError, match="first line must be a header"):
        load_names(pictures, "c.jpg,1,test", "images/b.jpg")


def test_folders_in_another_case_are_found_too(pictures):
    assert load_names(pictures, "image,mos,split", "Images\\B.JPG") == ["b.jpg"]
    (pictures / "Images").mkdir()
    with pytest.raises(TableError, match=r"1 of the 1 images"):
        load_names(pictures, "image,mos,split", "IMAGES\\b.jpg")


class TestAllRows:
    def test_a_table_without_splits_is_read_whole(self, pictures):
        (pictures / "labels.csv").write_text("image,mos\nc.jpg,1\nimages/b.jpg,2\n")
        table = load_table("csv", pictures, ("all",), pictures / "labels.csv")
        assert table.split("all")["image"].tolist() == ["c.jpg", "images/b.jpg"]
        assert table.split("all")["path"].notna().all()
        assert table.split_rule == "all rows"

    def test_a_table_with_splits_is_read_whole_and_keeps_them(self, tmp_path):
        table = load_table("UHD_IQA", make(tmp_path, labels()), ("all",))
        assert rows(table, "all") == [*range(16)]
        assert rows(table, "val") == [10, 11, 12]

    @pytest.mark.parametrize("column", ["split", "set", "part"])
    def test_what_stands_in_a_column_of_splits_does_not_matter(self, pictures, column):
        (pictures / "labels.csv").write_text(f"image,mos,{column}\nc.jpg,1,fold 1\nimages/b.jpg,2,test\n")
        table = load_table("csv", pictures, ("all",), pictures / "labels.csv", split_column="part")
        assert len(table.split("all")) == 2

    def test_a_test_split_that_is_not_there_names_the_remedy(self, pictures):
        (pictures / "labels.csv").write_text("image,mos\nc.jpg,1\nimages/b.jpg,2\n")
        with pytest.raises(TableError, match=r"the test split .* is empty .* --split all"):
            load_table("csv", pictures, ("test",), pictures / "labels.csv")


class TestLowerIsBetter:
    def test_opinions_are_negated_and_a_note_says_so(self, pictures):
        (pictures / "labels.csv").write_text("image,mos\nc.jpg,0\nimages/b.jpg,2.5\n")
        table = load_table("csv", pictures, ("all",), pictures / "labels.csv", lower_is_better=True)
        assert table.frame["mos"].map(str).tolist() == ["0.0", "-2.5"]  # 0, not -0
        assert "negatives" in table.notes[0]

    def test_published_data_sets_have_no_such_opinions(self, tmp_path):
        with pytest.raises(TableError, match="--lower_is_better is for label files of --database csv"):
            load_table("UHD_IQA", make(tmp_path, labels()), lower_is_better=True)


class TestListedTwice:
    @pytest.mark.parametrize("other", ["./c.jpg", "C.JPG", "images/../c.jpg"])
    def test_one_image_in_two_splits_under_two_names_is_noticed_whichever_split_is_read(self, pictures, other):
        (pictures / "labels.csv").write_text(f"image,mos,split\nimages/b.jpg,1,train\nc.jpg,2,train\n{other},3,test\n")
        for splits in (("train",), ("test",)):
            with pytest.raises(TableError, match=r"1 images are listed more than once by other names"):
                load_table("csv", pictures, splits, pictures / "labels.csv")

    def test_images_of_one_name_in_several_folders_are_different_images(self, pictures):
        (pictures / "b.jpg").write_bytes(b"picture")
        (pictures / "labels.csv").write_text("image,mos,split\nimages/b.jpg,1,test\nb.jpg,2,test\n")
        assert len(load_table("csv", pictures, ("test",), pictures / "labels.csv").frame) == 2


@pytest.mark.parametrize("name", [r"D:\\photos\\C.jpg", "/elsewhere/c.jpg", "c"])
def test_names_that_are_almost_there_get_a_hint(pictures, name):
    with pytest.raises(TableError, match=r"but c\.jpg is there: write the names as they are in that folder"):
        load_names(pictures, "image,mos,split", name)
