"""Finding and reading label files: UHD-IQA's, AVA's in both formats, and CSV files of one's own."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from label_tables import FULL, TRAINING_ONLY, labels, make, published_split, rows

from data.label_files import TableError, find_label_file
from data.tables import load_table


class TestFinding:
    @pytest.mark.parametrize("database_dir", ["", "training", "images/training", "images/jpg/training"])
    @pytest.mark.parametrize("file", [FULL, TRAINING_ONLY])
    def test_the_label_file_is_found_beside_and_above_the_images(self, tmp_path, database_dir, file):
        make(tmp_path, labels(["training"] * 5), file, layout=str(Path(database_dir, "{image_name}")))
        assert find_label_file("UHD_IQA", tmp_path / database_dir) == tmp_path / file
        assert load_table("UHD_IQA", tmp_path / database_dir, ("train", "val")).source == tmp_path / file

    def test_the_full_label_file_is_preferred_and_the_nearer_one(self, tmp_path):
        make(tmp_path, labels())
        make(tmp_path, labels(), TRAINING_ONLY)
        assert load_table("UHD_IQA", tmp_path).source.name == FULL
        make(tmp_path / "training", labels(["training"] * 10), TRAINING_ONLY, layout="{image_name}")
        source = load_table("UHD_IQA", tmp_path / "training", ("train", "val")).source
        assert source == tmp_path / "training" / TRAINING_ONLY

    def test_without_a_label_file_every_path_tried_is_listed(self, tmp_path):
        folder = tmp_path / "uhd/challenge/training"
        with pytest.raises(TableError) as caught:
            load_table("UHD_IQA", folder)
        for parent in (folder, folder.parent, folder.parent.parent):
            for name in (FULL, TRAINING_ONLY):
                assert str(parent / name) in str(caught.value)
        assert "--metadata" in str(caught.value)


class TestLabels:
    def test_images_listed_twice_are_an_error_that_names_them(self, tmp_path):
        make(tmp_path, pd.concat([labels(), labels().iloc[[3, 7]]]))
        with pytest.raises(TableError, match=r"2 images .*3\.jpg, 7\.jpg"):
            load_table("UHD_IQA", tmp_path)

    def test_opinions_and_further_columns_equal_those_of_the_file(self, tmp_path):
        frame = labels(views=range(16))
        table = load_table("UHD_IQA", make(tmp_path, frame))
        assert table.frame["mos"].tolist() == pytest.approx(frame["quality_mos"].tolist(), abs=1e-12)
        assert table.frame["image"].tolist() == frame["image_name"].tolist()
        assert table.frame["user_name"].tolist() == frame["user_name"].tolist()
        assert table.frame["views"].tolist() == frame["views"].map(str).tolist()

    @pytest.mark.parametrize("column", ["image_name", "quality_mos"])
    def test_a_missing_column_is_an_error_that_names_it_and_lists_the_others(self, tmp_path, column):
        labels().drop(columns=column).to_csv(tmp_path / FULL, index=False)
        with pytest.raises(TableError, match=f"no column {column}; it has .*set"):
            load_table("UHD_IQA", tmp_path)

    @pytest.mark.parametrize(
        "content",
        [b"", b"\n\n", b"image_name,quality_mos,set\n", bytes(range(256)) * 20, b"\0" * 500, b'"image_name,quality'],
        ids=["empty", "blank", "only a header", "binary", "zeros", "cut off"],
    )
    @pytest.mark.parametrize(("database", "name"), [("UHD_IQA", FULL), ("AVA", "AVA.txt"), ("csv", "mine.csv")])
    def test_a_damaged_label_file_is_an_error_that_names_it(self, tmp_path, database, name, content):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(TableError, match=name):
            load_table(database, tmp_path, metadata=tmp_path / name)

    @pytest.mark.parametrize("name", ["missing.csv", "."])
    def test_a_missing_label_file_is_an_error_that_names_it(self, tmp_path, name):
        with pytest.raises(TableError, match="no such label file"):
            load_table("UHD_IQA", tmp_path, metadata=tmp_path / name)

    def test_a_column_of_splits_that_is_not_called_set_is_not_passed_over(self, tmp_path):
        make(tmp_path, labels()).joinpath(FULL).write_text(labels().rename(columns={"set": "part"}).to_csv(index=False))
        with pytest.raises(TableError, match="'part' holds splits: call it set"):
            load_table("UHD_IQA", tmp_path)

    @pytest.mark.parametrize(
        ("header", "words"),
        [
            ("set", ("train", "dev", "eval")),
            ("Usage", ("Training", "PublicTest", "PrivateTest")),
            ("is test", ("0", "0", "1")),
            ("fold", ("0", "1", "2")),
            ("\u200bsplit", ("train", "val", "holdout")),
            ("part", ("train", "x", "test")),
        ],
    )
    def test_a_column_that_looks_like_a_split_is_never_ignored_unasked(self, tmp_path, header, words):
        """Otherwise test rows would be trained on."""
        for number in range(3):
            (tmp_path / f"{number}.jpg").write_bytes(b"picture")
        rows = [f"{number}.jpg,{number},{word}" for number, word in enumerate(words)]
        (tmp_path / "mine.csv").write_text("\n".join([f"image,mos,{header}", *rows]), encoding="utf-8")
        with pytest.raises(TableError, match=r"--split_column|'split' holds holdout"):
            load_table("csv", tmp_path, ("train", "val"), tmp_path / "mine.csv")
        if header != "\u200bsplit":
            table = load_table("csv", tmp_path, ("train", "val"), tmp_path / "mine.csv", split_column="")
            assert len(table.frame) == 3

    def test_unknown_split_names_are_listed_with_the_known_ones(self, tmp_path):
        make(tmp_path, labels(["training", "holdout"]))
        with pytest.raises(TableError, match=r"'set' holds holdout; known: .*validation"):
            load_table("UHD_IQA", tmp_path)


class TestAVA:
    VOTES = ((10, 0, 0, 0, 0, 0, 0, 0, 0, 0), (0, 0, 0, 0, 1, 0, 0, 0, 0, 3), (1, 2, 3, 4, 5, 5, 4, 3, 2, 1))
    MOS = (1.0, 8.75, 5.5)  # by hand: 10/10, (5 + 30)/4, and 5.5 by symmetry

    def comma_separated(self, folder: Path, votes=VOTES) -> None:
        frame = pd.DataFrame(votes, columns=[f"vote_{rating}" for rating in range(1, 11)])
        frame.insert(0, "image_num", [953_619 + number for number in range(len(votes))])
        frame.to_csv(folder / "ground_truth_dataset.csv", index=False)

    def space_separated(self, folder: Path, votes=VOTES) -> None:
        lines = (f"{n + 1} {953_619 + n} {' '.join(map(str, row))} 1 22 1396\n" for n, row in enumerate(votes))
        (folder / "AVA.txt").write_text("".join(lines))

    @pytest.mark.parametrize("write", [comma_separated, space_separated])
    def test_opinions_are_the_mean_votes_in_both_formats(self, tmp_path, write):
        write(self, tmp_path)
        for number in range(3):
            (tmp_path / f"{953_619 + number}.jpg").touch()
        frame = load_table("AVA", tmp_path, ("train", "val")).frame
        assert frame["mos"].tolist() == pytest.approx(self.MOS, abs=1e-12)
        assert frame["path"].tolist() == [str(tmp_path / f"{953_619 + number}.jpg") for number in range(3)]

    @pytest.mark.parametrize("write", [comma_separated, space_separated])
    def test_the_rows_are_divided_as_in_the_published_code(self, tmp_path, write):
        write(self, tmp_path, self.VOTES * 7)
        table = load_table("AVA", tmp_path, (), random_seed=4)
        assert (rows(table, "train"), rows(table, "val")) == published_split(21, 4)

    @pytest.mark.parametrize("write", [comma_separated, space_separated])
    def test_an_image_without_votes_has_no_opinion(self, tmp_path, write):
        write(self, tmp_path, (*self.VOTES, (0,) * 10))
        with pytest.raises(TableError, match=r"not finite.*953622\.jpg"):
            load_table("AVA", tmp_path, ())

    def test_names_are_text(self, tmp_path):
        (tmp_path / "AVA.txt").write_text("1 0001 1 0 0 0 0 0 0 0 0 0 1 22 1396\n2 NA 0 1 0 0 0 0 0 0 0 0 1 22 1396\n")
        frame = load_table("AVA", tmp_path, ()).frame
        assert frame["image"].tolist() == ["0001.jpg", "NA.jpg"]
        assert frame["mos"].tolist() == [1, 2]

    def test_tables_of_other_columns_are_refused(self, tmp_path):
        (tmp_path / "ground_truth_dataset.csv").write_text("image_num,vote_1\n1,2\n")
        with pytest.raises(TableError, match="no column vote_2"):
            load_table("AVA", tmp_path)
        (tmp_path / "ground_truth_dataset.csv").unlink()
        (tmp_path / "AVA.txt").write_text("1 953619 3 4\n")
        with pytest.raises(TableError, match="4 columns"):
            load_table("AVA", tmp_path)


class TestCSV:
    def own(self, folder: Path, **columns) -> Path:
        frame = pd.DataFrame({"image": [f"{number}.png" for number in range(10)], "mos": np.arange(10.0)} | columns)
        make(folder, frame, "own.csv", layout="{image}")
        return folder / "own.csv"

    def test_without_a_split_column_the_rows_are_divided(self, tmp_path):
        table = load_table("csv", tmp_path, ("train", "val"), self.own(tmp_path), random_seed=6)
        assert (rows(table, "train"), rows(table, "val")) == published_split(10, 6)

    def test_a_split_column_decides_in_any_spelling(self, tmp_path):
        words = ["train", "training", "Train", " train ", "val", "validation", "VALIDATION", "test", "testing", "Test"]
        table = load_table("csv", tmp_path, metadata=self.own(tmp_path, split=words))
        assert table.frame["split"].tolist() == ["train"] * 4 + ["val"] * 3 + ["test"] * 3

    def test_columns_may_have_any_names(self, tmp_path):
        frame = pd.DataFrame({"file": ["a.png", "sub/b.png"], "opinion": [3.0, 4.5], "part": ["val", "test"]})
        make(tmp_path, frame, "own.csv", layout="{file}")
        columns = {"image_column": "file", "mos_column": "opinion", "split_column": "part"}
        frame = load_table("csv", tmp_path, ("val", "test"), tmp_path / "own.csv", **columns).frame
        assert frame["mos"].tolist() == [3.0, 4.5]
        assert frame["split"].tolist() == ["val", "test"]
        assert frame["path"].tolist() == [str(tmp_path / "a.png"), str(tmp_path / "sub/b.png")]

    def test_named_columns_take_precedence_over_those_with_the_default_names(self, tmp_path):
        source = self.own(tmp_path, file=[f"{number}.png" for number in range(10)], opinion=np.arange(10.0) / 2)
        table = load_table("csv", tmp_path, (), source, image_column="file", mos_column="opinion")
        assert table.frame["mos"].tolist() == (np.arange(10) / 2).tolist()

    def test_a_column_of_any_name_can_define_the_groups_of_the_split(self, tmp_path):
        source = self.own(tmp_path, set=[f"scene {number // 2}" for number in range(10)])
        table = load_table("csv", tmp_path, ("train", "val"), source, split_by="set", split_column="")
        assert len(table.split("train")) == 8
        assert table.frame["split"][::2].tolist() == table.frame["split"][1::2].tolist()

    @pytest.mark.parametrize(("option", "column"), [("image_column", "file"), ("mos_column", "score")])
    def test_a_named_column_that_is_missing_is_an_error_that_names_it(self, tmp_path, option, column):
        with pytest.raises(TableError, match=f"no column {column}"):
            load_table("csv", tmp_path, (), self.own(tmp_path), **{option: column})

    def test_an_unknown_split_name_is_an_error_that_names_it(self, tmp_path):
        source = self.own(tmp_path, split=["train"] * 9 + ["holdout"])
        with pytest.raises(TableError, match="'split' holds holdout"):
            load_table("csv", tmp_path, metadata=source)

    def test_a_row_without_an_image_name_is_an_error(self, tmp_path):
        source = self.own(tmp_path)
        source.write_text("image,mos,split\na.png,1,train\n,2,train\n")
        with pytest.raises(TableError):
            load_table("csv", tmp_path, ("train", "val"), source)

    def test_a_csv_label_file_must_be_given_with_metadata(self, tmp_path):
        self.own(tmp_path)
        with pytest.raises(TableError, match="--metadata"):
            load_table("csv", tmp_path)

    @pytest.mark.parametrize("name", ["set", "Set", "subset", "partition", "phase"])
    @pytest.mark.parametrize("words", [["train", "test"], ["train", "dev", "test"], ["training", "", "validation"]])
    def test_splits_in_a_column_of_another_name_are_not_passed_over(self, tmp_path, name, words):
        """The test images would be trained on."""
        source = self.own(tmp_path, **{name: (words * 5)[:10]})
        with pytest.raises(TableError, match=f"--split_column {name}"):
            load_table("csv", tmp_path, ("train", "val"), source)

    def test_a_column_of_other_words_is_no_split(self, tmp_path):
        source = self.own(tmp_path, place=["test scene", "train station"] * 5)
        assert load_table("csv", tmp_path, ("train", "val"), source).frame["place"][0] == "test scene"

    def test_empty_cells_among_the_splits_are_called_that(self, tmp_path):
        with pytest.raises(TableError, match="'split' holds empty cells; known"):
            load_table("csv", tmp_path, metadata=self.own(tmp_path, split=["train"] * 9 + [None]))

    @pytest.mark.parametrize("skip_missing", [True, False])
    def test_decimal_commas_are_named_with_the_remedy(self, tmp_path, skip_missing):
        source = self.own(tmp_path)
        source.write_text("image;mos\n0.png;60\n1.png;61,5\n")
        with pytest.raises(TableError, match=r"'mos' has decimal commas \(61,5\): write 61\.5"):
            load_table("csv", tmp_path, ("train", "val"), source, skip_missing=skip_missing)

    @pytest.mark.parametrize("first", ["0.png,0,test", "0001,3.2,train", "0,0,test"])
    def test_a_missing_header_is_recognised_by_its_names_and_numbers(self, tmp_path, first):
        source = self.own(tmp_path)
        source.write_text(f"{first}\n1.png,1,test\n")
        with pytest.raises(TableError, match=r"first line .*header"):
            load_table("csv", tmp_path, ("test",), source)
