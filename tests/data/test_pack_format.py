"""What is in a pack's manifest and journal, and how plans are compared with it."""

import json
from dataclasses import asdict, replace
from math import prod

import pytest

from data.pack_format import JOURNAL, MANIFEST, PackError, PackPlan, Record, file_stamp, partial_folder, read_state
from data.views import ViewSpec

SPEC = ViewSpec(resize=72, crop_size=64, n_fragment=4, patch_size=16, salient_patch_dimension=80)
RECORDS = tuple(Record(f"{n}.jpg", "train", n, 100, 200, 1000 * n, 72, 96, 3) for n in range(3))
PLAN = PackPlan(SPEC, 7, 3, RECORDS)
ENTRIES = [{"record": asdict(record), "crc32": 11 * n} for n, record in enumerate(RECORDS)]
CHECKSUMS = {record: 11 * n for n, record in enumerate(RECORDS)}


def write_journal(folder, text: str) -> None:
    (folder / JOURNAL).write_text(text)


def test_a_record_has_the_parts_of_its_views_and_nothing_else():
    shapes = {
        "aesthetic": (72, 96, 3),
        "salient": (80, 80, 3),
        "distortion": (3, 64, 64, 3),
    }
    assert RECORDS[0].shapes(SPEC) == shapes
    assert RECORDS[0].size(SPEC) == sum(map(prod, shapes.values()))
    assert PLAN.size == 3 * RECORDS[0].size(SPEC)
    assert RECORDS[0].shapes(replace(SPEC, views=("salient",))) == {"salient": (80, 80, 3)}


def test_a_plan_differs_from_another_in_the_settings_that_are_named():
    assert PLAN.differences(PLAN.settings) == ""
    other = PackPlan(replace(SPEC, n_fragment=5), 8, 3)
    assert PLAN.differences(other.settings) == "random_seed is 8, here 7, n_fragment is 5, here 4"


def test_settings_that_do_not_affect_the_records_do_not_differ():
    assert PLAN.differences(PackPlan(replace(SPEC, crop_size=50, max_pixels=10**6), 7, 3).settings) == ""


def test_settings_survive_json():
    assert PLAN.differences(json.loads(json.dumps(PLAN.settings))) == ""


def test_a_folder_without_manifest_and_journal_has_no_state(tmp_path):
    assert read_state(tmp_path) == (None, {})
    assert read_state(tmp_path / "missing") == (None, {})


def test_manifest_and_journal_give_the_same_settings_and_checksums(tmp_path):
    (tmp_path / MANIFEST).write_text(json.dumps(PLAN.settings | {"bytes": PLAN.size, "records": ENTRIES}))
    from_manifest = read_state(tmp_path)
    assert from_manifest == (PLAN.settings, CHECKSUMS)
    write_journal(tmp_path, "".join(json.dumps(line) + "\n" for line in [PLAN.settings, *ENTRIES]))
    assert read_state(tmp_path) == from_manifest


@pytest.mark.parametrize("kept", [0.1, 0.5, 0.9])
def test_an_incomplete_last_line_of_a_journal_is_ignored(tmp_path, kept):
    lines = [json.dumps(line) for line in [PLAN.settings, *ENTRIES]]
    for complete in range(len(lines)):
        part = lines[complete][: int(kept * len(lines[complete]))]
        write_journal(tmp_path, "".join(line + "\n" for line in lines[:complete]) + part)
        settings, checksums = read_state(tmp_path)
        assert settings == (PLAN.settings if complete else None)
        assert list(checksums) == list(RECORDS[: max(0, complete - 1)])


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", "5", '{"version": 1}', "\0" * 50])
def test_a_damaged_manifest_is_an_error_that_names_file_and_remedy(tmp_path, text):
    (tmp_path / MANIFEST).write_text(text)
    with pytest.raises(PackError, match=f"{MANIFEST} is damaged .*--overwrite"):
        read_state(tmp_path)


@pytest.mark.parametrize("entry", [{}, {"record": {}}, {"record": asdict(RECORDS[0])}, {"record": {"color": 1}}, 5])
def test_a_damaged_entry_is_an_error_that_names_file_and_remedy(tmp_path, entry):
    (tmp_path / MANIFEST).write_text(json.dumps(PLAN.settings | {"records": [entry]}))
    with pytest.raises(PackError, match=f"{MANIFEST} is damaged .*--overwrite"):
        read_state(tmp_path)


def test_entries_of_another_version_are_not_read_but_its_settings_are(tmp_path):
    (tmp_path / MANIFEST).write_text(json.dumps(PLAN.settings | {"version": 2, "records": [{"color": 1}]}))
    settings, checksums = read_state(tmp_path)
    assert PLAN.differences(settings) == "version is 2, here 1"
    assert checksums == {}


def test_an_unfinished_pack_lies_beside_the_finished_one(tmp_path):
    assert partial_folder(tmp_path / "pack") == tmp_path / "pack.partial"


def test_a_files_stamp_changes_with_its_content(tmp_path):
    path = tmp_path / "a.jpg"
    path.write_bytes(b"1")
    before = file_stamp(path)
    assert before[0] == 1
    assert file_stamp(path) == before
    path.write_bytes(b"12")
    assert file_stamp(path) != before
