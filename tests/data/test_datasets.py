"""Batches of views: each item depends on what it is, never on what was read before it or by whom."""

from itertools import chain
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader

from data.datasets import EpochBatches, PairDataset, PhotographDataset, collate_pairs, collate_photographs
from data.decode import decode_rgb
from data.fragments import sample_fragments
from data.seeding import Purpose, derive_generator
from data.tables import TableError, load_table
from data.views import VIEW_NAMES, ViewSpec, make_views

SPEC = ViewSpec(resize=72, crop_size=64, n_fragment=4, patch_size=16, salient_patch_dimension=48)


@pytest.fixture(scope="module")
def table(tiny_dataset) -> pd.DataFrame:
    return load_table("UHD_IQA", tiny_dataset).split("train")


@pytest.fixture
def pairs(table) -> PairDataset:
    return PairDataset(table, SPEC, seed=1000)


@pytest.fixture(params=["text", "missing", "thin"])
def broken(request, tmp_path) -> tuple[str, str]:
    """Return the path of a file that cannot be cut into views, and part of the message that says why."""
    path = tmp_path / "broken.png"
    if request.param == "text":
        path.write_text("no image")
    if request.param == "thin":
        Image.new("L", (60_000, 1)).save(path)
    return str(path), {"text": "not an image", "missing": "No such file", "thin": "--max_pixels"}[request.param]


def same(first: dict, second: dict) -> bool:
    """Return whether two samples, or two batches, are equal."""
    if first.keys() != second.keys():
        return False
    for name, value in first.items():
        if isinstance(value, dict):
            equal = same(value, second[name])
        elif isinstance(value, torch.Tensor):
            equal = torch.equal(value, second[name])
        else:
            equal = np.array_equal(value, second[name])
        if not equal:
            return False
    return True


def same_pair(first: list[dict], second: list[dict]) -> bool:
    return all(same(*samples) for samples in zip(first, second, strict=True))


class TestPhotographs:
    def test_an_item_is_the_file_cut_as_in_evaluation(self, table):
        dataset = PhotographDataset(table["path"], SPEC, table["mos"])
        sample = dataset[3]
        views = make_views(decode_rgb(table["path"].iloc[3]), SPEC, SPEC.evaluation_fractions())
        assert same(sample, views | {"index": 3, "mos": table["mos"].iloc[3]})
        assert len(dataset) == len(table)

    def test_the_same_file_has_the_same_views_at_any_position_in_the_list(self, table):
        paths = table["path"].tolist()
        alone, last = PhotographDataset(paths[5:6], SPEC)[0], PhotographDataset([*paths[:3], paths[5]], SPEC)[3]
        assert all(torch.equal(alone[name], last[name]) for name in VIEW_NAMES)

    def test_the_first_of_several_draws_is_that_of_evaluation(self, table):
        one, three = (PhotographDataset(table["path"], SPEC, draws=draws)[0] for draws in (1, 3))
        assert [name for name in VIEW_NAMES if torch.equal(one[name], three[name])] == ["aesthetic", "salient"]
        assert torch.equal(three["distortion"][0], one["distortion"])
        assert not torch.equal(three["distortion"][1], one["distortion"])
        batch = collate_photographs([three, three])["views"]["distortion"]
        assert torch.equal(batch[1], three["distortion"])
        assert batch.movedim(-3, -1).is_contiguous()

    def test_a_decoded_photograph_is_kept_only_on_request(self, table):
        dataset = PhotographDataset([*table["path"][:2], "missing.jpg"], SPEC, keep_image=True)
        batch = collate_photographs([dataset[index] for index in range(3)])
        for image, path in zip(batch["images"], table["path"], strict=False):
            np.testing.assert_array_equal(image, decode_rgb(path))
        assert list(batch["views"]) == list(VIEW_NAMES)
        assert len(batch["images"]) == 2
        assert "images" not in collate_photographs([PhotographDataset(table["path"], SPEC)[0]])

    def test_a_photograph_is_reduced_where_it_is_decoded(self, table):
        def reduce(image, views):
            return image.shape, sorted(views)

        dataset = PhotographDataset([*table["path"][:2], "missing.jpg"], SPEC, reduce=reduce)
        batch = collate_photographs([dataset[index] for index in range(3)])
        assert batch["reduced"] == [(decode_rgb(path).shape, sorted(VIEW_NAMES)) for path in table["path"][:2]]
        assert list(batch["views"]) == list(VIEW_NAMES)
        assert "images" not in batch
        assert "reduced" not in collate_photographs([PhotographDataset(table["path"], SPEC)[0]])

    def test_without_opinions_the_mos_is_nan(self, table):
        assert np.isnan(PhotographDataset(table["path"], SPEC)[0]["mos"])

    @pytest.mark.parametrize("batch_size", [1, 5])
    def test_batches_are_the_same_with_and_without_workers(self, table, batch_size):
        dataset = PhotographDataset(table["path"], SPEC, table["mos"])
        options = {"batch_size": batch_size, "collate_fn": collate_photographs}
        alone = list(DataLoader(dataset, num_workers=0, **options))
        shared = list(DataLoader(dataset, num_workers=2, **options))
        assert all(same(*batches) for batches in zip(alone, shared, strict=True))
        assert np.concatenate([batch["index"] for batch in alone]).tolist() == [*range(len(dataset))]

    def test_a_broken_file_is_reported_and_the_rest_of_the_batch_goes_on(self, table, broken):
        bad, cause = broken
        paths = table["path"].tolist()[:3]
        dataset = PhotographDataset([paths[0], bad, *paths[1:]], SPEC, [0.1, 0.2, 0.3, 0.4])
        batch = next(iter(DataLoader(dataset, batch_size=4, collate_fn=collate_photographs)))
        assert batch["index"].tolist() == [0, 2, 3]
        assert batch["mos"].tolist() == pytest.approx([0.1, 0.3, 0.4])
        whole = collate_photographs([PhotographDataset(paths, SPEC)[index] for index in range(3)])
        assert same(batch["views"], whole["views"])
        ((index, message),) = batch["errors"]
        assert index == 1
        assert message.count(bad) == 1
        assert cause in message

    def test_a_batch_of_only_broken_files_has_only_errors(self, broken):
        dataset = PhotographDataset([broken[0]] * 2, SPEC)
        batch = collate_photographs([dataset[0], dataset[1]])
        assert [index for index, _ in batch["errors"]] == [0, 1]
        assert len(batch["index"]) == len(batch["mos"]) == 0
        assert batch["views"] == {}

    def test_a_batch_holds_only_the_views_that_are_cut(self, table):
        dataset = PhotographDataset(table["path"], ViewSpec(**(SPEC.to_dict() | {"views": ("aesthetic",)})))
        batch = collate_photographs([dataset[0], dataset[1]])
        assert {name: view.shape for name, view in batch["views"].items()} == {"aesthetic": (2, 3, 64, 64)}
        assert batch["views"]["aesthetic"].dtype == torch.uint8


class TestPairs:
    def test_a_partner_always_has_another_opinion(self, pairs):
        for index in range(len(pairs)):
            for epoch in range(30):
                assert pairs.mos[pairs.partner(index, epoch)] != pairs.mos[index]

    def test_every_photograph_of_another_opinion_becomes_the_partner(self):
        mos = [0.1, 0.1, 0.2, 0.3, 0.4]
        pairs = PairDataset(pd.DataFrame({"path": list("abcde"), "mos": mos}), SPEC, seed=0)
        partners = [pairs.partner(0, epoch) for epoch in range(900)]
        assert set(partners) == {2, 3, 4}
        assert np.bincount(partners)[2:] == pytest.approx(300, abs=60)

    def test_a_partner_depends_on_seed_sample_and_epoch_alone(self, table):
        def partners(seed: int, epoch: int) -> list[int]:
            dataset = PairDataset(table, SPEC, seed)
            return [dataset.partner(index, epoch) for index in range(len(dataset))]

        assert partners(1, 4) == partners(1, 4)
        assert partners(1, 4) != partners(1, 5)
        assert partners(1, 4) != partners(2, 4)

    def test_an_item_is_a_photograph_and_its_partner(self, pairs, table):
        first, second = pairs[2, 5]
        assert (first["index"], second["index"]) == (5, pairs.partner(5, 2))
        for sample in (first, second):
            assert sample["mos"] == np.float32(table["mos"].iloc[sample["index"]])
            assert set(sample) == {*VIEW_NAMES, "index", "mos", "source"}

    def test_the_salient_view_is_that_of_evaluation(self, pairs, table):
        sample = PhotographDataset(table["path"], SPEC)[5]
        assert torch.equal(pairs[2, 5][0]["salient"], sample["salient"])

    def test_crops_and_fragments_are_drawn_anew_in_every_epoch(self, pairs):
        for name in ("aesthetic", "distortion"):
            views = [pairs[epoch, 0][0][name] for epoch in range(4)]
            assert len({view.numpy().tobytes() for view in views}) == 4

    def test_another_seed_draws_other_crops_and_fragments(self, pairs, table):
        other = PairDataset(table, SPEC, seed=1001)
        for name in ("aesthetic", "distortion"):
            assert any(not torch.equal(pairs[0, index][0][name], other[0, index][0][name]) for index in range(4))

    def test_an_item_does_not_depend_on_what_was_read_before_it(self, pairs, table):
        fresh = PairDataset(table, SPEC, seed=1000)
        expected = pairs[3, 7]
        for key in ((3, 7), (0, 0), (9, 7), (3, 1)):
            fresh[key]
        assert same_pair(fresh[3, 7], expected)

    def test_a_photograph_that_appears_twice_in_an_epoch_is_cut_twice(self, pairs):
        partner = pairs[1, 0][1]
        first = pairs[1, partner["index"]][0]
        assert torch.equal(first["salient"], partner["salient"])
        for name in ("aesthetic", "distortion"):
            assert not torch.equal(first[name], partner[name])

    def test_the_flip_of_a_photograph_is_drawn_for_each_role(self, table):
        straight, flipping = (PairDataset(table, SPEC, seed=1000, flip=flip) for flip in (False, True))
        flips = set()
        for index in range(len(table)):
            partner = flipping[0, index][1]
            views = straight[0, index][1], partner, straight[0, partner["index"]][0], flipping[0, partner["index"]][0]
            second, flipped_second, first, flipped_first = (view["salient"] for view in views)
            flips.add((torch.equal(second, flipped_second), torch.equal(first, flipped_first)))
        assert len({as_second == as_first for as_second, as_first in flips}) == 2

    def test_the_draws_of_pairs_alternate_between_roles_and_those_of_single_photographs_count_epochs(self, table):
        def generator(draw: int) -> np.random.Generator:
            return derive_generator(Purpose.FRAGMENTS, 1000, sample, draw)

        for pairing, draws in (("partner", [(6, 0), (7, 1)]), ("batch", [(3, 0)])):
            item = PairDataset(table, SPEC, seed=1000, pairing=pairing)[3, 5]
            for draw, role in draws:
                index = item[role]["index"]
                sample = int(table.index[index])
                image = decode_rgb(table["path"].iloc[index])
                mosaic = sample_fragments(image, SPEC.n_fragment, SPEC.patch_size, generator(draw))
                assert torch.equal(item[role]["distortion"], mosaic)

    def test_leaving_rows_out_does_not_change_the_views_of_the_others(self, pairs, table):
        fewer = PairDataset(table.drop(table.index[[0, 4, 5]]), SPEC, seed=1000)
        assert fewer.samples.tolist() == [pairs.samples[place] for place in (1, 2, 3, *range(6, len(table)))]
        sample, other = fewer[2, 3][0], pairs[2, 6][0]
        assert all(torch.equal(sample[name], other[name]) for name in VIEW_NAMES)

    @pytest.mark.parametrize("mos", [[0.5], [0.5] * 4, []])
    def test_fewer_than_two_opinions_are_an_error_at_once(self, mos):
        with pytest.raises(TableError, match="have the same one"):
            PairDataset(pd.DataFrame({"path": ["x.jpg"] * len(mos), "mos": mos}), SPEC, seed=0)

    def test_batches_hold_all_firsts_before_all_seconds(self, pairs):
        items = [pairs[0, index] for index in (4, 1, 8)]
        batch = collate_pairs(items)
        order = [first for first, _ in items] + [second for _, second in items]
        assert batch["index"].tolist() == [sample["index"] for sample in order]
        assert batch["mos"].tolist() == pytest.approx([sample["mos"] for sample in order])
        assert batch["mos"].dtype == torch.float32
        for name in VIEW_NAMES:
            assert torch.equal(batch["views"][name], torch.stack([sample[name] for sample in order]))

    def test_epochs_are_the_same_with_and_without_workers(self, pairs):
        runs = []
        for workers in (0, 2):
            order = EpochBatches(len(pairs), 5, 3, range(2))
            runs.append(list(DataLoader(pairs, batch_sampler=order, num_workers=workers, collate_fn=collate_pairs)))
        assert len(runs[0]) == 6
        assert all(same(*batches) for batches in zip(*runs, strict=True))
        assert all(
            same(batch, collate_pairs([pairs[key] for key in keys])) for batch, keys in zip(runs[0], order, strict=True)
        )

    def test_a_broken_file_is_reported_and_the_rest_of_the_batch_goes_on(self, table, broken):
        bad, cause = broken
        paths = [bad, *table["path"].iloc[1:3]]
        pairs = PairDataset(pd.DataFrame({"path": paths, "mos": [0.1, 0.2, 0.3]}), SPEC, seed=0)
        items = [pairs[0, index] for index in range(3)]
        batch = collate_pairs(items)
        assert {index for index, _ in batch["errors"]} == {0}
        assert all(message.count(bad) == 1 and cause in message for _, message in batch["errors"])
        whole = [item for item in items if all(sample["index"] != 0 for sample in item)]
        assert batch["index"].tolist() == [item[place]["index"] for place in (0, 1) for item in whole]
        assert len(whole) < len(items) - 1, "a partner of the broken file is left out with it"


class TestEpochBatches:
    def keys(self, length: int, seed: int, epoch: int, batch_size: int = 4) -> list[tuple[int, int]]:
        order = EpochBatches(length, batch_size, seed, range(epoch, epoch + 1))
        batches = list(order)
        assert len(batches) == len(order) == order.steps
        assert [len(batch) for batch in batches[:-1]] == [batch_size] * (order.steps - 1)
        return [key for batch in batches for key in batch]

    @pytest.mark.parametrize("length", [1, 2, 4, 17])
    def test_every_index_comes_once_with_its_epoch(self, length):
        assert sorted(self.keys(length, 5, 3)) == [(3, index) for index in range(length)]

    def test_the_order_depends_on_seed_and_epoch_alone(self):
        torch.rand(1)
        np.random.default_rng().random()
        first = [index for _, index in self.keys(50, 5, 3)]
        assert first == [index for _, index in self.keys(50, 5, 3)]
        assert first != [index for _, index in self.keys(50, 6, 3)]
        assert first != [index for _, index in self.keys(50, 5, 4)]
        assert first == [index for _, index in self.keys(50, 5, 3, batch_size=7)]

    def test_epochs_follow_each_other_and_any_can_come_first(self):
        whole = list(EpochBatches(10, 4, 1, range(4)))
        assert len(whole) == len(EpochBatches(10, 4, 1, range(4))) == 12
        assert [len(batch) for batch in whole[:3]] == [4, 4, 2]
        assert list(EpochBatches(10, 4, 1, range(2, 4))) == whole[6:]


def test_paths_may_be_path_objects(table):
    sample, other = (PhotographDataset([kind(table["path"].iloc[0])], SPEC)[0] for kind in (str, Path))
    assert all(torch.equal(sample[name], other[name]) for name in VIEW_NAMES)


@pytest.mark.parametrize(("length", "batch_size", "world_size"), [(10, 4, 2), (9, 4, 3), (5, 8, 4)])
def test_the_ranks_parts_are_the_batch(length, batch_size, world_size):
    whole = list(EpochBatches(length, batch_size, 3, range(2)))
    parts = [
        list(EpochBatches(length, batch_size, 3, range(2), rank=rank, world_size=world_size))
        for rank in range(world_size)
    ]
    assert [list(chain(*together)) for together in zip(*parts, strict=True)] == whole
    later = list(EpochBatches(length, batch_size, 3, range(2), first_step=1))
    assert later == whole[1:]


class TestSources:
    @pytest.fixture
    def mixed(self, table) -> pd.DataFrame:
        mos = np.where(np.arange(len(table)) % 3, table["mos"], table["mos"] * 50)
        return table.assign(mos=mos, source=np.where(np.arange(len(table)) % 3, "small scale", "large scale"))

    def test_opinions_are_standardised_within_each_source(self, mixed):
        pairs = PairDataset(mixed, SPEC, seed=1, pairing="batch", standardise=True, source_column="source")
        samples = [pairs[0, index][0] for index in range(len(mixed))]
        opinions, sources = (np.array([sample[name] for sample in samples]) for name in ("mos", "source"))
        assert pairs.source_names == ("large scale", "small scale")
        for source in (0, 1):
            assert opinions[sources == source].mean() == pytest.approx(0, abs=1e-6)
            assert opinions[sources == source].std() == pytest.approx(1, abs=1e-6)

    def test_partners_are_of_the_same_source(self, mixed):
        pairs = PairDataset(mixed, SPEC, seed=1, standardise=True, source_column="source")
        for epoch in range(5):
            partners = [pairs.partner(index, epoch) for index in range(len(pairs))]
            assert (pairs.sources[partners] == pairs.sources).all()

    def test_a_source_without_different_opinions_is_named(self, mixed):
        mixed["mos"] = mixed["mos"].where(mixed["source"] == "small scale", 3.0)
        with pytest.raises(TableError, match="training images of large scale have the same one"):
            PairDataset(mixed, SPEC, seed=1, source_column="source")

    @pytest.fixture
    def sources(self) -> np.ndarray:
        return np.repeat([0, 1, 2], [70, 20, 10])

    def keys(self, sources, epochs=range(3), **more) -> list[list[tuple[int, int]]]:
        return list(EpochBatches(100, 10, 5, epochs, sources=sources, proportions=(2, 1, 1), **more))

    def test_every_batch_mixes_sources_in_their_proportions(self, sources):
        batches = self.keys(sources)
        counts = np.array([np.bincount(sources[[index for _, index in batch]], minlength=3) for batch in batches])
        assert (counts.reshape(3, 10, 3).sum(1) == [50, 25, 25]).all()
        assert (abs(counts - [5, 2.5, 2.5]) <= 2).all()

    def test_no_photograph_is_drawn_again_before_all_others_of_its_source(self, sources):
        keys = [key for batch in self.keys(sources) for key in batch]
        assert len(set(keys)) == len(keys)
        for source in range(3):
            times = [number for number, index in keys if sources[index] == source]
            full = max(times)  # passes before the last are complete
            for number in range(full):
                assert times.count(number) == (sources == source).sum()

    def test_a_resumed_epoch_goes_on_with_the_same_batches(self, sources):
        assert self.keys(sources)[13:] == self.keys(sources, range(1, 3), first_step=3)

    def test_ranks_divide_every_batch(self, sources):
        parts = [self.keys(sources, rank=rank, world_size=2) for rank in range(2)]
        assert [first + second for first, second in zip(*parts, strict=True)] == self.keys(sources)

    def test_without_proportions_every_photograph_is_drawn_once(self, sources):
        batches = list(EpochBatches(100, 10, 5, range(1), sources=sources))
        assert sorted(key for batch in batches for key in batch) == [(0, index) for index in range(100)]
