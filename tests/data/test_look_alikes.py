"""Look-alikes: a photograph is recognised after it was resized or recompressed, another one is not."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from data.look_alikes import MAX_DISTANCE, image_hash, look_alikes_of_test
from data.seeding import Purpose, derive_generator
from data.synthetic import render_scene


@pytest.fixture
def files(tmp_path):
    """Return a table of two photographs, and versions of the first one."""
    rows = []
    for number in range(2):
        scene = Image.fromarray(render_scene(derive_generator(Purpose.SCENE, number), 256, 256))
        for name, version, split in (
            ("original.png", scene, "test" if number == 0 else "train"),
            ("small.png", scene.resize((200, 200)), "train"),
            ("strong.jpg", scene, "val"),
        ):
            path = tmp_path / f"{number}_{name}"
            version.save(path, **({"quality": 30} if name.endswith("jpg") else {}))
            rows.append({"image": path.name, "path": str(path), "split": split})
    return pd.DataFrame(rows)


def test_versions_of_a_test_image_are_found(files):
    assert look_alikes_of_test(files) == (["0_small.png", "0_strong.jpg"], [])
    assert look_alikes_of_test(files, num_workers=3) == (["0_small.png", "0_strong.jpg"], [])


def test_an_image_that_cannot_be_decoded_is_named_and_the_others_are_compared(files):
    broken = Path(files["path"][3])
    broken.write_bytes(b"no picture")
    dropped, (problem,) = look_alikes_of_test(files)
    assert dropped == ["0_small.png", "0_strong.jpg"]
    assert broken.name in problem


def test_a_table_without_test_images_has_no_look_alikes(files):
    assert look_alikes_of_test(files.assign(split="train")) == ([], [])


def test_brightness_leaves_the_hash(tmp_path, files):
    pixels = np.asarray(Image.open(files["path"][0])) // 2 + 60
    Image.fromarray(pixels.astype(np.uint8)).save(tmp_path / "brighter.png")
    difference = image_hash(str(tmp_path / "brighter.png")) != image_hash(files["path"][0])
    assert difference.size == 256
    assert difference.sum() <= MAX_DISTANCE
