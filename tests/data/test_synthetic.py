"""The demo data set: reproducible, split by scene, with opinions that follow the faults."""

import hashlib
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from data.decode import decode_rgb
from data.synthetic import (
    AMOUNT_RANGES,
    LABEL_FILE,
    TILE,
    UNTOUCHED_MOS,
    degrade,
    fault_amount,
    make_synthetic_dataset,
    render_scene,
    simulated_mos,
    texture_tiles,
)
from data.tables import load_table


def contents(folder: Path) -> dict[str, str]:
    """Return the hash of every file below a folder."""
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def make(folder: Path, **options) -> dict[str, str]:
    make_synthetic_dataset(folder, **({"scenes": 3, "height": 96, "width": 128} | options))
    return contents(folder)


@pytest.fixture(scope="module")
def labels(tiny_dataset) -> pd.DataFrame:
    return pd.read_csv(tiny_dataset / LABEL_FILE)


def test_the_same_seed_gives_the_same_bytes_with_any_number_of_workers(tmp_path):
    first, again, with_workers = (
        make(tmp_path / name, seed=9, workers=n) for name, n in (("a", 1), ("b", 1), ("c", 2))
    )
    assert len(first) == 19
    assert first == again == with_workers


def test_another_seed_gives_other_bytes(tmp_path):
    first, other = (make(tmp_path / str(seed), seed=seed) for seed in (0, 1))
    assert not set(first.values()) & set(other.values())


def test_a_scene_does_not_depend_on_the_other_scenes(tmp_path):
    few, many = make(tmp_path / "few", scenes=3), make(tmp_path / "many", scenes=4)
    names = [f"test/{number}.jpg" for number in range(1, 7)]
    assert [few[name] for name in names] == [many[name] for name in names]


def test_the_label_file_has_uhd_iqas_columns_and_a_row_for_every_image(tiny_dataset, labels):
    assert {"image_name", "quality_mos", "set", "orig_width", "orig_height", "image_bytes", "user_name"} <= set(labels)
    images = {(path.parent.name, path.name): path for path in tiny_dataset.rglob("*.jpg")}
    assert sorted(zip(labels["set"], labels["image_name"], strict=True)) == sorted(images)
    for row in labels.itertuples():
        assert images[row.set, row.image_name].stat().st_size == row.image_bytes
        assert (
            decode_rgb(images[row.set, row.image_name]).shape == (row.orig_height, row.orig_width, 3) == (240, 320, 3)
        )


def test_the_table_returned_is_the_label_file(tmp_path):
    table = make_synthetic_dataset(tmp_path, scenes=3, height=96, width=128)
    pd.testing.assert_frame_equal(table, pd.read_csv(tmp_path / LABEL_FILE))


@pytest.mark.parametrize("scenes", [3, 4, 7, 23])
def test_the_splits_share_no_scene_and_none_is_empty(scenes, tmp_path):
    table = make_synthetic_dataset(tmp_path, scenes=scenes, height=16, width=24)
    split_of_scene = table.groupby("user_name")["set"]
    assert len(split_of_scene) == scenes
    assert (split_of_scene.nunique() == 1).all()
    scenes_of = table["set"].value_counts() / 6
    assert scenes_of["test"] == max(1, round(scenes * 2 / 9))
    assert scenes_of["validation"] == max(1, round(scenes * 4 / 27))
    assert scenes_of["training"] == scenes - scenes_of["test"] - scenes_of["validation"]


def test_each_scene_has_six_versions_with_every_fault_and_an_untouched_one(labels):
    for _, versions in labels.groupby("user_name"):
        counts = versions["degradation"].value_counts()
        assert len(versions) == 6
        assert set(counts.index) == {"none", *AMOUNT_RANGES}
        assert counts["none"] == 1


def test_the_file_name_does_not_reveal_the_version(labels):
    positions = {
        (int(Path(row.image_name).stem) - 1) % 6 for row in labels[labels["degradation"] == "none"].itertuples()
    }
    assert len(positions) > 1


def test_versions_of_a_scene_are_the_same_picture(tiny_dataset, labels):
    """Averaged over blocks, a version is nearer to its own untouched scene than to any other."""

    def blocks(row) -> np.ndarray:
        pixels = decode_rgb(tiny_dataset / row.set / row.image_name)
        return pixels.reshape(8, 30, 8, 40, 3).mean((1, 3))

    untouched = {row.user_name: blocks(row) for row in labels[labels["degradation"] == "none"].itertuples()}
    for row in labels.itertuples():
        distances = {scene: np.abs(blocks(row) - other).mean() for scene, other in untouched.items()}
        assert min(distances, key=distances.get) == row.user_name


def test_the_opinion_in_the_label_file_follows_from_the_amount(labels):
    for row in labels.itertuples():
        assert row.quality_mos == pytest.approx(simulated_mos(row.degradation, row.amount), abs=2e-4)
        assert 0.20 <= row.quality_mos <= 0.90


def test_the_amount_of_a_jpeg_is_an_integer_quality_setting(labels):
    amounts = labels.loc[labels["degradation"] == "jpeg", "amount"]
    assert (amounts == amounts.round()).all()
    assert amounts.between(4, 40).all()


def test_the_demo_set_loads_as_uhd_iqa_does(tiny_dataset, labels):
    table = load_table("UHD_IQA", tiny_dataset)
    assert table.frame["split"].value_counts().to_dict() == {"train": 12, "val": 6, "test": 6}
    assert table.frame["mos"].tolist() == labels["quality_mos"].tolist()
    assert table.notes == ()


@pytest.mark.parametrize("degradation", AMOUNT_RANGES)
def test_the_opinion_falls_with_the_severity_between_its_bounds(degradation):
    opinions = [simulated_mos(degradation, fault_amount(degradation, severity)) for severity in np.linspace(0, 1, 50)]
    assert (np.diff(opinions) < 0).all()
    assert opinions[0] == pytest.approx(0.85)
    assert opinions[-1] == pytest.approx(0.20)


@pytest.mark.parametrize("degradation", AMOUNT_RANGES)
def test_amounts_run_from_just_visible_to_strong(degradation):
    low, high = AMOUNT_RANGES[degradation]
    assert fault_amount(degradation, 0) == pytest.approx(low)
    assert fault_amount(degradation, 1) == pytest.approx(high)
    assert fault_amount(degradation, 0.5) == pytest.approx((low * high) ** 0.5)


def test_an_untouched_photograph_has_the_best_opinion():
    assert simulated_mos("none", 0) == UNTOUCHED_MOS == 0.90
    assert all(simulated_mos(name, low) < UNTOUCHED_MOS for name, (low, _) in AMOUNT_RANGES.items())


@pytest.mark.parametrize("degradation", ["none", *AMOUNT_RANGES])
def test_a_fault_keeps_shape_and_dtype_and_leaves_the_original_alone(photograph, degradation):
    before = photograph.copy()
    amount = 0 if degradation == "none" else fault_amount(degradation, 0.5)
    degraded = degrade(photograph, degradation, amount, np.random.default_rng(0))
    assert degraded.shape == photograph.shape
    assert degraded.dtype == np.uint8
    assert np.array_equal(photograph, before)
    assert np.array_equal(degraded, photograph) == (degradation == "none")


@pytest.mark.parametrize("degradation", AMOUNT_RANGES)
def test_a_stronger_fault_takes_the_picture_farther_from_the_original(degradation):
    image = render_scene(np.random.default_rng(1), 240, 320)
    errors = []
    for severity in (0, 0.5, 1):
        degraded = degrade(image, degradation, fault_amount(degradation, severity), np.random.default_rng(0))
        errors.append(np.abs(degraded.astype(int) - image).mean())
    assert 0 < errors[0] < errors[1] < errors[2]


def test_noise_has_the_amount_as_its_spread_at_mid_grey():
    image = np.full((200, 200, 3), 128, np.uint8)
    degraded = degrade(image, "noise", 12, np.random.default_rng(0))
    assert degraded.std() == pytest.approx(12, rel=0.02)
    assert degraded.mean() == pytest.approx(128, abs=0.2)


def test_an_unknown_fault_is_refused(photograph):
    with pytest.raises(ValueError, match=r"'fog'.*blur, noise, jpeg, scaling"):
        degrade(photograph, "fog", 1, np.random.default_rng(0))


def test_scenes_of_different_generators_differ_and_fill_the_range():
    first, again, other = (render_scene(np.random.default_rng(seed), 120, 160) for seed in (1, 1, 2))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)
    assert first.shape == (120, 160, 3)
    assert first.dtype == np.uint8
    assert np.ptp(first) > 100


def test_texture_tiles_are_standardised_and_wrap_around_without_a_seam():
    tiles = texture_tiles(np.random.default_rng(0), count=3)
    assert tiles.shape == (3, TILE, TILE)
    assert tiles.mean((1, 2)) == pytest.approx(0, abs=1e-3)
    assert tiles.std((1, 2)) == pytest.approx(1, abs=1e-3)
    for axis in (1, 2):
        seam = np.abs(tiles.take(0, axis) - tiles.take(-1, axis)).mean()
        assert seam == pytest.approx(np.abs(np.diff(tiles, axis=axis)).mean(), rel=0.15)


@pytest.mark.parametrize("scenes", [0, 2])
def test_fewer_than_three_scenes_are_refused_before_anything_is_written(scenes, tmp_path):
    with pytest.raises(ValueError, match="at least 3 scenes"):
        make_synthetic_dataset(tmp_path / "new", scenes=scenes)
    assert not (tmp_path / "new").exists()


def test_progress_sees_every_scene(tmp_path):
    seen = []

    def progress(jobs):
        for job in jobs:
            seen.append(job)
            yield job

    make_synthetic_dataset(tmp_path, scenes=5, height=16, width=24, progress=progress)
    assert len(seen) == 5
