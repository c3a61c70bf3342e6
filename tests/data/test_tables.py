"""Label files, splits, and where the images are."""

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from data.tables import LabelTable, TableError, load_table

FULL, TRAINING_ONLY = "uhd-iqa-metadata.csv", "uhd-iqa-training-metadata.csv"
SETS = ["training"] * 10 + ["validation"] * 3 + ["test"] * 3


def labels(sets: Iterable[str] = SETS, **columns) -> pd.DataFrame:
    """Return UHD-IQA's columns for images 0.jpg, 1.jpg ...; further columns, or others in their place, by name."""
    names = [f"{number}.jpg" for number in range(len(sets))]
    return pd.DataFrame(
        {"image_name": names, "quality_mos": np.linspace(0.2, 0.8, len(sets)), "set": sets, "user_name": "x"} | columns
    )


def make(folder: Path, frame: pd.DataFrame, file: str = FULL, layout: str = "{set}/{image_name}") -> Path:
    """Write a label file and empty images, each at the place that the layout gives for its row; return the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    frame.to_csv(folder / file, index=False)
    for row in frame.to_dict("records"):
        path = folder / layout.format(**row)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return folder


def published_split(n: int, seed: int) -> tuple[list[int], list[int]]:
    """Return training and validation rows as the published code divides n training rows."""
    order = np.random.RandomState(seed).permutation(n)
    return sorted(order[: int(n * 0.8)]), sorted(order[int(n * 0.8) :])


def rows(table: LabelTable, split: str) -> list[int]:
    return table.split(split).index.tolist()


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

    def test_one_validation_image_is_enough_to_want_them_all(self, tmp_path):
        make(tmp_path, labels())
        (tmp_path / "validation/11.jpg").unlink()
        with pytest.raises(TableError, match=r"1 of the 13 images.*11\.jpg"):
            load_table("UHD_IQA", tmp_path, ("train", "val"))

    def test_training_and_validation_alone_see_the_split_that_both_together_see(self, tmp_path):
        make(tmp_path, labels(["training"] * 20), TRAINING_ONLY)
        both = load_table("UHD_IQA", tmp_path, ("train", "val"), random_seed=3)
        for split in ("train", "val"):
            assert rows(load_table("UHD_IQA", tmp_path, (split,), random_seed=3), split) == rows(both, split)

    def test_a_split_that_would_be_empty_is_an_error(self, tmp_path):
        make(tmp_path, labels(["training"] * 10), TRAINING_ONLY)
        with pytest.raises(TableError, match=r"the test split .* is empty.*--metadata"):
            load_table("UHD_IQA", tmp_path, ("test",))

    def test_unknown_words_in_the_split_column_are_named(self, tmp_path):
        make(tmp_path, labels(["training", "holdout"]))
        with pytest.raises(TableError, match=r"'set' holds holdout; known: .*validation"):
            load_table("UHD_IQA", tmp_path)


class TestSplitBy:
    def authors(self, folder: Path) -> Path:
        sets = ["training"] * 30 + ["validation"] * 10 + ["test"] * 10
        return make(folder, labels(sets, user_name=[f"author {number % 17}" for number in range(50)]))

    @pytest.mark.parametrize("seed", range(5))
    def test_groups_stay_on_one_side_and_the_test_set_stays_as_it_is(self, tmp_path, seed):
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

    def test_an_unknown_column_is_an_error_that_lists_the_known(self, tmp_path):
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
        with pytest.raises(TableError, match=r"the train split .* is empty .*user_name"):
            load_table("UHD_IQA", tmp_path, ("train", "val"), split_by="user_name")


class TestPlaces:
    @pytest.mark.parametrize(
        ("layout", "database_dir"),
        [("{set}/{image_name}", ""), ("{set}/{image_name}", "training"), ("{image_name}", "")],
    )
    def test_images_are_found_in_each_layout(self, tmp_path, layout, database_dir):
        frame = labels()
        make(tmp_path, frame, layout=layout)
        found = load_table("UHD_IQA", tmp_path / database_dir).frame
        expected = [(tmp_path / layout.format(**row)).resolve() for row in frame.to_dict("records")]
        assert [Path(path).resolve() for path in found["path"]] == expected

    def test_a_relative_folder_is_as_good_as_an_absolute_one(self, tmp_path, monkeypatch):
        make(tmp_path, labels())
        for folder in (".", "training", "../" + tmp_path.name, "training/.."):
            monkeypatch.chdir(tmp_path)
            paths = load_table("UHD_IQA", folder).frame["path"]
            assert all(Path(path).is_file() for path in paths)

    @pytest.mark.parametrize("database_dir", ["", "training", "images/training", "images/jpg/training"])
    @pytest.mark.parametrize("file", [FULL, TRAINING_ONLY])
    def test_the_label_file_is_found_beside_and_above_the_images(self, tmp_path, database_dir, file):
        make(tmp_path, labels(["training"] * 5), file, layout=str(Path(database_dir, "{image_name}")))
        assert load_table("UHD_IQA", tmp_path / database_dir, ("train", "val")).source == tmp_path / file

    def test_the_full_label_file_is_preferred_and_the_nearer_one(self, tmp_path):
        make(tmp_path, labels())
        make(tmp_path, labels(), TRAINING_ONLY)
        assert load_table("UHD_IQA", tmp_path).source.name == FULL
        make(tmp_path / "training", labels(["training"] * 10), TRAINING_ONLY, layout="{image_name}")
        source = load_table("UHD_IQA", tmp_path / "training", ("train", "val")).source
        assert source == tmp_path / "training" / TRAINING_ONLY

    def test_without_a_label_file_every_place_tried_is_listed(self, tmp_path):
        folder = tmp_path / "uhd/challenge/training"
        with pytest.raises(TableError) as caught:
            load_table("UHD_IQA", folder)
        for place in (folder, folder.parent, folder.parent.parent):
            for name in (FULL, TRAINING_ONLY):
                assert str(place / name) in str(caught.value)
        assert "--metadata" in str(caught.value)

    def test_a_label_file_given_by_name_is_taken_from_there(self, tmp_path):
        make(tmp_path / "images", labels(["training"] * 5), "ignored.csv", layout="{image_name}")
        make(tmp_path / "elsewhere", labels(["training"] * 4), "mine.csv", layout="{image_name}")
        table = load_table(
            "UHD_IQA", tmp_path / "images", ("train", "val"), metadata=tmp_path / "elsewhere" / "mine.csv"
        )
        assert len(table.frame) == 4
        assert {Path(path).parent for path in table.frame["path"]} == {tmp_path / "images"}

    def test_only_the_splits_asked_for_are_looked_for(self, tmp_path):
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


class TestLabels:
    def test_images_listed_twice_are_an_error_that_names_them(self, tmp_path):
        make(tmp_path, pd.concat([labels(), labels().iloc[[3, 7]]]))
        with pytest.raises(TableError, match=r"2 images .*3\.jpg, 7\.jpg"):
            load_table("UHD_IQA", tmp_path)

    @pytest.mark.parametrize("word", ["", "nan", "inf", "-inf", "good"])
    def test_an_opinion_that_is_no_finite_number_is_an_error_or_left_out(self, tmp_path, word):
        make(tmp_path, labels(quality_mos=["0.5"] * 5 + [word] + ["0.5"] * 10))
        with pytest.raises(TableError, match=r"1 opinions are not finite.*5\.jpg.*--skip_missing"):
            load_table("UHD_IQA", tmp_path)
        table = load_table("UHD_IQA", tmp_path, skip_missing=True)
        assert table.frame.index.tolist() == [*range(5), *range(6, 16)]
        assert any("1 opinions are not finite" in note for note in table.notes)

    def test_the_opinions_and_further_columns_are_those_of_the_file(self, tmp_path):
        frame = labels(views=range(16))
        table = load_table("UHD_IQA", make(tmp_path, frame))
        assert table.frame["mos"].tolist() == pytest.approx(frame["quality_mos"].tolist(), abs=1e-12)
        assert table.frame["image"].tolist() == frame["image_name"].tolist()
        assert table.frame[["user_name", "views"]].equals(frame[["user_name", "views"]])

    @pytest.mark.parametrize("column", ["image_name", "quality_mos"])
    def test_a_missing_column_is_an_error_that_names_it_and_those_there_are(self, tmp_path, column):
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

    @pytest.mark.parametrize("place", ["missing.csv", "."])
    def test_a_label_file_that_is_not_there_is_an_error_that_names_it(self, tmp_path, place):
        with pytest.raises(TableError, match="no such label file"):
            load_table("UHD_IQA", tmp_path, metadata=tmp_path / place)


class TestAVA:
    VOTES = ((10, 0, 0, 0, 0, 0, 0, 0, 0, 0), (0, 0, 0, 0, 1, 0, 0, 0, 0, 3), (1, 2, 3, 4, 5, 5, 4, 3, 2, 1))
    MOS = (1.0, 8.75, 5.5)  # worked out by hand: 10/10, (5 + 30)/4, and 5.5 by symmetry

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

    def test_columns_may_have_other_names(self, tmp_path):
        frame = pd.DataFrame({"file": ["a.png", "sub/b.png"], "opinion": [3.0, 4.5], "part": ["val", "test"]})
        make(tmp_path, frame, "own.csv", layout="{file}")
        columns = {"image_column": "file", "mos_column": "opinion", "split_column": "part"}
        frame = load_table("csv", tmp_path, ("val", "test"), tmp_path / "own.csv", **columns).frame
        assert frame["mos"].tolist() == [3.0, 4.5]
        assert frame["split"].tolist() == ["val", "test"]
        assert frame["path"].tolist() == [str(tmp_path / "a.png"), str(tmp_path / "sub/b.png")]

    def test_the_columns_named_count_where_others_bear_the_usual_names(self, tmp_path):
        source = self.own(tmp_path, file=[f"{number}.png" for number in range(10)], opinion=np.arange(10.0) / 2)
        table = load_table("csv", tmp_path, (), source, image_column="file", mos_column="opinion")
        assert table.frame["mos"].tolist() == (np.arange(10) / 2).tolist()

    def test_a_column_of_any_name_can_keep_groups_together(self, tmp_path):
        source = self.own(tmp_path, set=[f"scene {number // 2}" for number in range(10)])
        table = load_table("csv", tmp_path, ("train", "val"), source, split_by="set")
        assert len(table.split("train")) == 8
        assert table.frame["split"][::2].tolist() == table.frame["split"][1::2].tolist()

    @pytest.mark.parametrize(("option", "column"), [("image_column", "file"), ("mos_column", "score")])
    def test_a_column_asked_for_and_not_there_is_named(self, tmp_path, option, column):
        with pytest.raises(TableError, match=f"no column {column}"):
            load_table("csv", tmp_path, (), self.own(tmp_path), **{option: column})

    def test_an_unknown_word_in_the_split_column_is_named(self, tmp_path):
        source = self.own(tmp_path, split=["train"] * 9 + ["holdout"])
        with pytest.raises(TableError, match="'split' holds holdout"):
            load_table("csv", tmp_path, metadata=source)

    def test_a_row_without_an_image_name_is_an_error(self, tmp_path):
        source = self.own(tmp_path)
        source.write_text("image,mos,split\na.png,1,train\n,2,train\n")
        with pytest.raises(TableError):
            load_table("csv", tmp_path, ("train", "val"), source)

    def test_a_label_file_of_ones_own_has_to_be_given(self, tmp_path):
        self.own(tmp_path)
        with pytest.raises(TableError, match="--metadata"):
            load_table("csv", tmp_path)


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
