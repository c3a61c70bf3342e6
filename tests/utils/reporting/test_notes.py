"""Training images among those of an evaluation are counted or suspected, and inverted opinions are noticed."""

from pathlib import Path

import pytest
from label_tables import TRAINING_ONLY, labels, make

from data.tables import ALL, LabelTable, data_fingerprint, load_table
from utils.reporting.notes import count_training_images, orientation_notes, training_notes


def own_options(folder: Path, **more) -> dict:
    """Return the options of a run on the full label file of a folder."""
    return {"database": "UHD_IQA", "database_dir": str(folder)} | more


@pytest.fixture
def folder(tmp_path) -> Path:
    return make(tmp_path / "data", labels())


@pytest.mark.parametrize(("split", "count"), [("train", 10), ("val", 0), ("test", 0), (ALL, 10)])
def test_training_images_are_counted_in_each_split(folder, split, count):
    table = load_table("UHD_IQA", folder, (split,))
    assert count_training_images(table.split(split), own_options(folder)) == count


def test_another_seed_puts_training_images_into_validation(tmp_path):
    folder = make(tmp_path, labels(["training"] * 40), TRAINING_ONLY)
    table = load_table("UHD_IQA", folder, ("val",), random_seed=1)
    assert count_training_images(table.split("val"), own_options(folder, random_seed=1)) == 0
    count = count_training_images(table.split("val"), own_options(folder, random_seed=2))
    assert count > 0
    (note,) = training_notes(table, 8, "val", count, own_options(folder), "UHD_IQA")
    assert f"trained on {count} of the 8 images" in note


def test_other_images_are_no_training_images(folder, tmp_path):
    other = load_table("UHD_IQA", make(tmp_path / "other", labels()), (ALL,))
    assert count_training_images(other.split(ALL), own_options(folder)) == 0


def test_a_label_file_that_has_changed_since_the_training_does_not_say_what_was_trained_on(folder):
    table = load_table("UHD_IQA", folder, ("train", "test"))
    options = own_options(folder, metadata=str(table.source))
    rows, fingerprint = table.split("test"), data_fingerprint(table.split("train"))
    assert count_training_images(rows, options, fingerprint) == 0
    assert count_training_images(rows, options, "another") is None
    assert count_training_images(table.split("train"), options, "another") == len(table.split("train"))
    (note,) = training_notes(table, 3, "test", None, options, "UHD_IQA")
    assert "have changed since" in note


def test_what_cannot_be_known_is_none_and_a_warning_where_all_rows_are_read(folder, tmp_path):
    table = load_table("UHD_IQA", folder, (ALL,))
    gone = own_options(tmp_path / "gone")
    assert count_training_images(table.split(ALL), gone) is None
    assert count_training_images(table.split(ALL), {}) is None
    assert "may have been trained" in training_notes(table, 9, ALL, None, gone, "UHD_IQA")[0]
    assert training_notes(table, 9, "test", None, gone, "UHD_IQA") == []


class TestReleasedWeights:
    def notes(self, table: LabelTable, split: str, database: str = "UHD_IQA") -> list[str]:
        return training_notes(table, 9, split, None, {}, database)

    def test_validation_images_of_the_training_only_file_may_be_training_images(self, tmp_path):
        table = load_table("UHD_IQA", make(tmp_path, labels(["training"] * 10), TRAINING_ONLY), ("val",))
        (note,) = self.notes(table, "val")
        assert "may have been trained on" in note
        assert "\n" not in note

    def test_official_validation_and_test_images_are_not(self, folder):
        table = load_table("UHD_IQA", folder, ("val", "test"))
        assert self.notes(table, "val") == self.notes(table, "test") == []

    def test_all_rows_include_the_training_rows(self, folder):
        assert self.notes(load_table("UHD_IQA", folder, (ALL,)), ALL)

    def test_ones_own_photographs_were_not_seen_by_the_authors(self, folder):
        table = load_table("UHD_IQA", folder, (ALL,))
        assert self.notes(table, ALL, "csv") == []


def report_with(low: float, high: float) -> dict:
    return {"raw": {"ci95": {"SRCC": [low, high]}}}


def test_scores_that_fall_where_opinions_rise_are_noticed():
    (note,) = orientation_notes(report_with(-0.9, -0.4), False, {})
    assert "--lower_is_better False" in note
    assert orientation_notes(report_with(-0.4, 0.1), False, {}) == []


def test_a_checkpoint_of_the_other_orientation_is_noticed():
    trained = {"database": "csv", "lower_is_better": True}
    (note,) = orientation_notes(report_with(0.1, 0.4), False, trained)
    assert "trained with --lower_is_better True" in note
    assert orientation_notes(report_with(0.1, 0.4), True, trained) == []
    assert orientation_notes(report_with(0.1, 0.4), True, {"database": "UHD_IQA"}) == []
