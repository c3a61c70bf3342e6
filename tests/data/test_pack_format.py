"""What is in a pack's manifest and journal, and how plans are compared with it."""

import json
import os
from dataclasses import asdict, replace
from math import prod

import pytest

from data.files import file_sha256
from data.pack_format import JOURNAL, MANIFEST, Entry, PackError, PackPlan, Record, file_stat, partial_folder, read_pack
from data.views import ViewSpec

SPEC = ViewSpec(resize=72, crop_size=64, n_fragment=4, patch_size=16, salient_patch_dimension=80)
RECORDS = tuple(Record(f"{n}.jpg", "train", n, 100, 200, 1000 * n, 72, 96, 3) for n in range(3))
PLAN = PackPlan(SPEC, 7, 3, RECORDS)
ENTRIES = [Entry(record, 11 * n, f"{n:064x}") for n, record in enumerate(RECORDS)]
LINES = [asdict(entry) for entry in ENTRIES]


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


def test_another_table_of_fractions_is_another_pack():
    other = replace(PLAN, spec=replace(SPEC, fractions=(1,) * (2 * SPEC.n_fragment**2)))
    assert PLAN.differences(other.settings) == "fractions differ"


def test_settings_that_do_not_affect_the_records_do_not_differ():
    assert PLAN.differences(PackPlan(replace(SPEC, crop_size=50, max_pixels=10**6), 7, 3).settings) == ""


def test_settings_survive_json():
    assert PLAN.differences(json.loads(json.dumps(PLAN.settings))) == ""


def test_a_folder_without_manifest_and_journal_has_no_state(tmp_path):
    assert read_pack(tmp_path) == (None, [])
    assert read_pack(tmp_path / "missing") == (None, [])


def test_manifest_and_journal_give_the_same_settings_and_checksums(tmp_path):
    (tmp_path / MANIFEST).write_text(json.dumps(PLAN.settings | {"bytes": PLAN.size, "records": LINES}))
    from_manifest = read_pack(tmp_path)
    assert from_manifest == (PLAN.settings, ENTRIES)
    write_journal(tmp_path, "".join(json.dumps(line) + "\n" for line in [PLAN.settings, *LINES]))
    assert read_pack(tmp_path) == from_manifest


@pytest.mark.parametrize("kept", [0.1, 0.5, 0.9])
def test_an_incomplete_last_line_of_a_journal_is_ignored(tmp_path, kept):
    lines = [json.dumps(line) for line in [PLAN.settings, *LINES]]
    for complete in range(len(lines)):
        part = lines[complete][: int(kept * len(lines[complete]))]
        write_journal(tmp_path, "".join(line + "\n" for line in lines[:complete]) + part)
        settings, entries = read_pack(tmp_path)
        assert settings == (PLAN.settings if complete else None)
        assert entries == ENTRIES[: max(0, complete - 1)]


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", "5", '{"version": 1}', "\0" * 50])
def test_a_damaged_manifest_is_an_error_that_names_file_and_remedy(tmp_path, text):
    (tmp_path / MANIFEST).write_text(text)
    with pytest.raises(PackError, match=f"{MANIFEST} is damaged .*--overwrite"):
        read_pack(tmp_path)


@pytest.mark.parametrize("entry", [{}, {"record": {}}, {"record": asdict(RECORDS[0])}, {"record": {"color": 1}}, 5])
def test_a_damaged_entry_is_an_error_that_names_file_and_remedy(tmp_path, entry):
    (tmp_path / MANIFEST).write_text(json.dumps(PLAN.settings | {"records": [entry]}))
    with pytest.raises(PackError, match=f"{MANIFEST} is damaged .*--overwrite"):
        read_pack(tmp_path)


def test_entries_of_another_version_are_not_read_but_its_settings_are(tmp_path):
    (tmp_path / MANIFEST).write_text(json.dumps(PLAN.settings | {"version": 1, "records": [{"color": 1}]}))
    settings, entries = read_pack(tmp_path)
    assert PLAN.differences(settings) == "version is 1, here 3"
    assert entries == []


def test_an_unfinished_pack_lies_beside_the_finished_one(tmp_path):
    assert partial_folder(tmp_path / "pack") == tmp_path / "pack.partial"


def test_a_file_is_the_one_that_was_packed_if_its_content_is(tmp_path):
    path = tmp_path / "a.jpg"
    path.write_bytes(b"content")
    record = replace(RECORDS[0], **dict(zip(("source_bytes", "source_mtime_ns"), file_stat(path), strict=True)))
    entry = Entry(record, 0, file_sha256(path))
    assert entry.is_of(path)
    os.utime(path, ns=(0, 0))
    assert entry.is_of(path), "only its time has changed"
    path.write_bytes(b"CONTENT")
    os.utime(path, ns=(0, 0))
    assert not entry.is_of(path)
    path.write_bytes(b"more content")
    os.utime(path, ns=(record.source_mtime_ns,) * 2)
    assert not entry.is_of(path), "another size at the same time"


def test_size_and_time_change_with_the_content(tmp_path):
    path = tmp_path / "a.jpg"
    path.write_bytes(b"1")
    before = file_stat(path)
    assert before[0] == 1
    assert file_stat(path) == before
    path.write_bytes(b"12")
    assert file_stat(path) != before
