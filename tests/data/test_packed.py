"""Packed views equal the views cut from the photograph, or the pack is refused with the difference named."""

import json
import os
import pickle
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader

from data import pack_format
from data.datasets import PairDataset, PhotographDataset, collate_pairs, collate_photographs
from data.pack_format import MANIFEST, VIEWS, PackError, partial_folder
from data.packed import PackedPhotographs, PackedViews
from data.packing import plan_pack
from data.unfinished_pack import UnfinishedPack
from data.views import ViewSpec

SPEC = ViewSpec(resize=72, crop_size=64, n_fragment=4, patch_size=16, salient_patch_dimension=80)
SEED = 1000
SHAPES = [(120, 200), (200, 120), (60, 300), (20, 20), (64, 64), (97, 131), (400, 72)]


def pack(folder, rows: pd.DataFrame, spec: ViewSpec = SPEC, draws: int = 4) -> None:
    """Make a complete pack."""
    unfinished = UnfinishedPack(folder, plan_pack(rows, spec, SEED, draws))
    writer = unfinished.begin()
    for index in range(len(writer)):
        record_index, entry, error = writer[index]
        assert error is None
        unfinished.record(record_index, entry)
    unfinished.finish()


@pytest.fixture(scope="module")
def rows(tmp_path_factory) -> pd.DataFrame:
    """Photographs of many shapes and formats, half of them for training; sample numbers with gaps."""
    folder = tmp_path_factory.mktemp("images")
    generator = np.random.default_rng(4)
    names = []
    for number, shape in enumerate(SHAPES):
        image = Image.fromarray(generator.integers(0, 256, (*shape, 3), np.uint8))
        exif = Image.Exif()
        exif[0x0112] = 1 + number  # every orientation but the last
        image.save(folder / f"{number}.jpg", exif=exif)
        image.convert("L").save(folder / f"{number}.png")
        names += [f"{number}.jpg", f"{number}.png"]
    return pd.DataFrame(
        {
            "image": names,
            "mos": np.linspace(0.2, 0.8, len(names)),
            "split": ["train", "val"] * len(SHAPES),
            "path": [str(folder / name) for name in names],
        },
        index=np.arange(len(names)) * 3 + 1,
    )


@pytest.fixture(scope="module")
def folder(rows, tmp_path_factory):
    folder = tmp_path_factory.mktemp("packs") / "whole"
    pack(folder, rows)
    return folder


@pytest.fixture
def packed(folder, rows) -> PackedViews:
    return PackedViews(folder, rows, SPEC, SEED)


def split(rows: pd.DataFrame, name: str) -> pd.DataFrame:
    return rows[rows["split"] == name]


def assert_same_samples(first: dict, second: dict) -> None:
    assert first.keys() == second.keys()
    for name, value in first.items():
        if isinstance(value, torch.Tensor):
            assert torch.equal(value, second[name]), name
            assert value.stride() == second[name].stride()
        else:
            np.testing.assert_equal(value, second[name])


@pytest.mark.parametrize("epoch", [0, 1])
def test_training_views_equal_those_cut_for_the_same_draw_bit_for_bit(packed, rows, epoch):
    direct = PairDataset(split(rows, "train"), SPEC, SEED)
    from_pack = PairDataset(split(rows, "train"), SPEC, SEED, packed)
    for index in range(len(direct)):
        for first, second in zip(direct[epoch, index], from_pack[epoch, index], strict=True):
            assert_same_samples(first, second)


def test_after_the_last_draw_the_fragments_repeat_and_the_crops_do_not(packed, rows):
    pairs = PairDataset(split(rows, "train"), SPEC, SEED, packed)
    first, later = pairs[1, 1][0], pairs[3, 1][0]
    assert torch.equal(first["distortion"], later["distortion"])
    assert not torch.equal(first["aesthetic"], later["aesthetic"])


def test_validation_views_equal_those_of_evaluation_bit_for_bit(packed, rows):
    validation = split(rows, "val")
    direct = PhotographDataset(validation["path"], SPEC)
    from_pack = PackedPhotographs(packed, validation.index)
    assert len(from_pack) == len(direct)
    for index in range(len(direct)):
        assert_same_samples(direct[index], from_pack[index])


@pytest.mark.parametrize("views", [("aesthetic",), ("distortion", "salient")], ids="+".join)
def test_only_the_views_that_a_model_reads_are_packed(views, rows, tmp_path):
    spec = replace(SPEC, views=views)
    pack(tmp_path / "few", rows, spec)
    packed = PackedViews(tmp_path / "few", rows, spec, SEED)
    direct = PairDataset(split(rows, "train"), spec, SEED)
    assert_same_samples(PairDataset(split(rows, "train"), spec, SEED, packed)[1, 2][0], direct[1, 2][0])
    assert set(packed.views(int(rows.index[0]))) == set(views)


def test_the_crop_may_be_chosen_after_packing(folder, rows):
    spec = replace(SPEC, crop_size=48, max_pixels=SPEC.max_pixels + 1)
    packed = PackedViews(folder, rows, spec, SEED)
    direct = PairDataset(split(rows, "train"), spec, SEED)
    assert_same_samples(PairDataset(split(rows, "train"), spec, SEED, packed)[0, 3][0], direct[0, 3][0])


def test_batches_are_the_same_with_and_without_workers(packed, rows):
    validation = PackedPhotographs(packed, split(rows, "val").index)
    runs = [
        list(DataLoader(validation, batch_size=3, num_workers=workers, collate_fn=collate_photographs))
        for workers in (0, 2)
    ]
    for without, with_workers in zip(*runs, strict=True):
        assert_same_samples(without["views"], with_workers["views"])


def test_a_batch_is_channels_last_in_memory(packed, rows):
    pairs = PairDataset(split(rows, "train"), SPEC, SEED, packed)
    views = collate_pairs([pairs[0, 0], pairs[0, 1]])["views"]
    assert all(view.is_contiguous(memory_format=torch.channels_last) for view in views.values())


def test_views_own_their_memory_and_a_pack_is_pickled_without_its_map(packed, rows):
    sample = int(rows.index[0])
    view = packed.views(sample)["salient"]
    before = view.clone()
    view.zero_()
    pickled = pickle.dumps(packed)
    assert len(pickled) < (packed.folder / VIEWS).stat().st_size / 10
    copy = pickle.loads(pickled)
    assert torch.equal(copy.views(sample)["salient"], before)


def refused(folder, rows, spec=SPEC, seed=SEED) -> str:
    with pytest.raises(PackError) as caught:
        PackedViews(folder, rows, spec, seed)
    assert "prepare.py pack" in str(caught.value) or "--overwrite" in str(caught.value), "a remedy is named"
    return str(caught.value)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("resize", 80),
        ("n_fragment", 3),
        ("patch_size", 8),
        ("salient_patch_dimension", 64),
        ("saliency", "spectral"),
        ("seed", 7),
        ("views", ("patches",)),
    ],
)
def test_a_pack_of_another_view_setting_is_refused_and_the_setting_named(folder, rows, field, value):
    message = refused(folder, rows, replace(SPEC, **{field: value}))
    assert field in message
    assert str(value if isinstance(value, int) else value[-1]) in message


def test_a_pack_of_another_training_seed_is_refused_and_both_seeds_named(folder, rows):
    assert "random_seed is 1000, here 5" in refused(folder, rows, seed=5)


def test_photographs_that_are_not_in_it_are_named(folder, rows):
    more = rows.rename(index={int(rows.index[2]): 999})
    assert rows["image"].iloc[2] in refused(folder, more)
    other_split = rows.assign(split=["val", *rows["split"].tolist()[1:]])
    assert rows["image"].iloc[0] in refused(folder, other_split)


def test_a_run_may_use_fewer_photographs_than_the_pack_holds(folder, rows):
    packed, whole = (PackedViews(folder, part, SPEC, SEED) for part in (rows.iloc[3:], rows))
    sample = int(rows.index[3])
    for name, view in packed.views(sample).items():
        assert torch.equal(view, whole.views(sample)[name])


def test_a_photograph_that_has_changed_is_named(folder, rows):
    path = Path(rows["path"].iloc[4])
    content, stat = path.read_bytes(), path.stat()
    for changed in (content[:-1] + bytes([content[-1] ^ 1]), content + b"x"):
        path.write_bytes(changed)
        os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns + 1))
        try:
            message = refused(folder, rows)
        finally:
            path.write_bytes(content)
            os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
        assert rows["image"].iloc[4] in message
        assert "changed" in message


def test_a_photograph_whose_time_alone_has_changed_is_accepted(folder, rows, packed):
    path = rows["path"].iloc[4]
    stat = os.stat(path)
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns + 10**9))
    try:
        touched = PackedViews(folder, rows, SPEC, SEED)
    finally:
        os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    sample = int(rows.index[4])
    assert torch.equal(touched.views(sample)["salient"], packed.views(sample)["salient"])


def test_contents_are_compared_only_where_times_differ(folder, rows, monkeypatch):
    read = []
    monkeypatch.setattr(pack_format, "file_sha256", read.append)
    PackedViews(folder, rows, SPEC, SEED)
    assert read == []


def test_a_pack_that_is_replaced_keeps_its_pixels_where_it_is_open(rows, tmp_path):
    folder = tmp_path / "pack"
    pack(folder, rows)
    packed = PackedViews(folder, rows, SPEC, SEED)
    unread = pickle.dumps(packed)
    folder.rename(tmp_path / "old")
    pack(folder, rows)
    with (folder / VIEWS).open("r+b") as file:  # another pack of the same photographs
        file.write(bytes(range(256)) * 1000)
    old = PackedViews(tmp_path / "old", rows, SPEC, SEED)
    for sample in rows.index:
        for name, view in packed.views(sample).items():
            assert torch.equal(view, old.views(sample)[name])
    with pytest.raises(PackError, match="was replaced while this run reads it"):
        pickle.loads(unread)  # in a process that opens the file anew
    shutil.rmtree(folder)
    with pytest.raises(PackError, match="was replaced"):
        pickle.loads(unread)


def test_the_message_distinguishes_no_pack_an_unfinished_pack_and_another_folder(rows, tmp_path):
    assert "is not there" in refused(tmp_path / "none", rows)
    partial_folder(tmp_path / "none").mkdir()
    assert "unfinished" in refused(tmp_path / "none", rows)
    (tmp_path / "empty").mkdir()
    assert MANIFEST in refused(tmp_path / "empty", rows)


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"version": 1}'])
def test_a_damaged_manifest_is_named(text, rows, tmp_path):
    pack(tmp_path / "pack", rows)
    (tmp_path / "pack" / MANIFEST).write_text(text)
    assert MANIFEST in refused(tmp_path / "pack", rows)


def test_a_pack_of_another_version_is_refused(rows, tmp_path):
    pack(tmp_path / "pack", rows)
    manifest = json.loads((tmp_path / "pack" / MANIFEST).read_text())
    (tmp_path / "pack" / MANIFEST).write_text(json.dumps(manifest | {"version": 1}))
    assert "version is 1, here 3" in refused(tmp_path / "pack", rows)


def test_a_file_of_another_length_is_refused(rows, tmp_path):
    pack(tmp_path / "pack", rows)
    with (tmp_path / "pack" / VIEWS).open("ab") as file:
        file.write(b"x")
    assert VIEWS in refused(tmp_path / "pack", rows)


@pytest.mark.parametrize(("policy", "validated"), [("all", 5), ("all", 0), ("texture", 0)])
def test_packed_patches_equal_those_cut_from_the_photograph(policy, validated, rows, tmp_path):
    spec = ViewSpec(views=("patches",), patch_dimension=32, patch_policy=policy, patches=validated)
    pack(tmp_path / "pack", rows, spec, draws=4)
    packed = PackedViews(tmp_path / "pack", rows, spec, SEED)
    datasets = [PairDataset(split(rows, "train"), spec, SEED, source) for source in (packed, None)]
    for key in ((0, 0), (1, 3)):
        for one, other in zip(*(dataset[key] for dataset in datasets), strict=True):
            assert torch.equal(one["patches"], other["patches"])
    validation = split(rows, "val")
    direct = PhotographDataset(validation["path"], spec)
    for index, sample in enumerate(PackedPhotographs(packed, validation.index)):
        assert torch.equal(sample["patches"], direct[index]["patches"])
        if index + 1 == len(validation):
            break


def test_a_run_may_read_some_of_a_packs_views_but_no_others(packed, folder, rows):
    for views in (("salient",), ("aesthetic", "distortion")):
        some = PackedViews(folder, rows, replace(SPEC, views=views), SEED)
        for sample in rows.index:
            part, whole = some.views(sample), packed.views(sample)
            assert tuple(part) == views
            assert all(torch.equal(part[name], whole[name]) for name in views)
    with pytest.raises(PackError, match="views is"):
        PackedViews(folder, rows, replace(SPEC, views=("patches",)), SEED)
