"""The pictures of a folder's page: small, of the right photograph, and deleted only if they are ours."""

import base64
import pickle
from io import BytesIO

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_checkpoint import SPEC

from data.views import ViewSpec, make_views, sample_draws
from utils.bulk.images import find_images
from utils.errors import RunError
from utils.reporting.folder_pictures import (
    PHOTOGRAPH_SIDE,
    RUN_FOLDER,
    THUMBNAIL_SIDE,
    VIEW_SIDE,
    PhotographReducer,
    PictureStore,
)


def opened(content: bytes) -> Image.Image:
    picture = Image.open(BytesIO(content))
    assert picture.format == "JPEG"
    return picture


def test_pictures_show_the_photograph_and_its_views_in_small():
    down, right = np.mgrid[:1200, :2000] / [[[1200]], [[2000]]]
    image = (np.stack([down, right, (down + right) / 2], axis=2) * 255).astype(np.uint8)
    spec = ViewSpec(n_fragment=15)
    reduced = PhotographReducer(spec)(image, make_views(image, spec))
    sizes = {name: opened(content).size for name, content in reduced.pictures.items()}
    assert sizes.pop("thumbnail") == (THUMBNAIL_SIDE, round(THUMBNAIL_SIDE * 0.6))
    assert sizes.pop("photograph") == (PHOTOGRAPH_SIDE, PHOTOGRAPH_SIDE * 0.6)
    assert sizes == dict.fromkeys(spec.views, (VIEW_SIDE, VIEW_SIDE))
    assert reduced.size == (2000, 1200)
    assert reduced.covered == (1995 / 2000, 1.0)
    picture = np.asarray(opened(reduced.pictures["photograph"]), float)
    expected = np.asarray(Image.fromarray(image).resize((PHOTOGRAPH_SIDE, 576), Image.Resampling.BOX), float)
    assert np.abs(picture - expected)[5:-5, 5:-5].mean() < 4


def test_a_small_picture_is_not_enlarged_and_the_first_draw_is_shown(photograph):
    views = make_views(photograph, SPEC) | {"distortion": sample_draws(photograph, SPEC, 3)}
    reduced = PhotographReducer(SPEC)(photograph, views)
    assert opened(reduced.pictures["photograph"]).size == (480, 270)
    mosaic = np.asarray(opened(reduced.pictures["distortion"]), float)
    expected = views["distortion"][0].movedim(0, -1).numpy()
    assert mosaic.shape == expected.shape
    assert np.abs(mosaic - expected).mean() < 12


@pytest.mark.parametrize("shape", [(1, 30000, 3), (30000, 1, 3), (1, 1, 3)])
def test_a_photograph_of_any_shape_has_pictures(shape):
    reduced = PhotographReducer(ViewSpec(views=("aesthetic",)))(
        np.zeros(shape, np.uint8), {"aesthetic": torch.zeros(3, 480, 480, dtype=torch.uint8)}
    )
    assert min(opened(reduced.pictures["thumbnail"]).size) == 1


def test_patches_are_not_shown(photograph):
    reduced = PhotographReducer(ViewSpec(views=("patches",)))(photograph, {})
    assert list(reduced.pictures) == ["thumbnail", "photograph"]


def test_worker_processes_can_receive_it():
    assert pickle.loads(pickle.dumps(PhotographReducer(SPEC))) == PhotographReducer(SPEC)


def test_in_memory_nothing_is_written(tmp_path):
    store = PictureStore(tmp_path / "page.html", is_beside=False)
    store.open()
    store.add(3, {"thumbnail": b"abc"})
    assert base64.b64decode(store.encoded(3, "thumbnail")) == b"abc"
    assert store.encoded(4, "thumbnail") is None
    assert store.url is None
    assert list(tmp_path.iterdir()) == []


def test_beside_the_page_every_run_has_a_folder_that_is_not_taken_for_photographs(tmp_path):
    (tmp_path / "photo.jpg").write_bytes(b"a")
    stores = [PictureStore(tmp_path / "my page.html", is_beside=True) for _ in range(2)]
    for store in stores:
        store.open()
        store.add(3, {"thumbnail": b"abc"})
        assert RUN_FOLDER.fullmatch(store.folder.name)
    assert stores[0].url != stores[1].url
    assert stores[0].url.startswith("my%20page_files/")
    assert len(list(tmp_path.rglob("thumbnail/3.jpg"))) == 2
    assert find_images([str(tmp_path)]).images == [str(tmp_path / "photo.jpg")]


def test_only_pictures_of_earlier_pages_are_deleted(tmp_path):
    stores = [PictureStore(tmp_path / "page.html", is_beside=True) for _ in range(2)]
    for store in stores:
        store.open()
        store.add(0, {"thumbnail": b"abc"})
    (stores[0].parent / "holiday").mkdir()
    (stores[0].parent / "uiqa_report_mine").mkdir()
    stores[1].discard_earlier()
    names = {path.name for path in stores[0].parent.iterdir()}
    assert names == {"holiday", "uiqa_report_mine", stores[1].folder.name}
    stores[1].discard()
    assert {path.name for path in stores[0].parent.iterdir()} == {"holiday", "uiqa_report_mine"}


def test_a_folder_without_anything_else_vanishes_with_its_pictures(tmp_path):
    store = PictureStore(tmp_path / "page.html", is_beside=True)
    store.open()
    store.discard()
    assert list(tmp_path.iterdir()) == []
    store.discard_earlier()


def test_a_folder_that_cannot_be_made_is_one_error(tmp_path):
    (tmp_path / "page_files").write_text("a file")
    with pytest.raises(RunError, match="cannot be made"):
        PictureStore(tmp_path / "page.html", is_beside=True).open()
