"""Maps as colours: the sign gives the hue, the magnitude the strength, and 0 is transparent."""

import numpy as np
import pytest

from utils.reporting.maps import colour_limit, colour_table, paint, reference_text, relative_maps


def test_blue_adds_red_subtracts_and_zero_is_transparent():
    colours = paint(np.array([[0.5, 0.0, -0.5]]), limit=0.5).astype(int)
    assert colours.shape == (1, 3, 4)
    adds, zero, subtracts = colours[0]
    assert adds[2] > adds[0] + 50
    assert subtracts[0] > subtracts[2] + 50
    assert zero[3] == 0
    assert adds[3] == subtracts[3] > 128


def test_what_lies_beyond_the_scale_has_its_last_colour():
    np.testing.assert_array_equal(paint(np.array([[3.0, -9.0]]), 0.5), paint(np.array([[0.5, -0.5]]), 0.5))


def test_maps_are_relative_to_validation_or_else_to_themselves():
    maps = {"aesthetic": np.array([[1.0, 3.0]]), "salient": np.array([[2.0]])}
    means = {"aesthetic": 1.5, "salient": 0.5}
    relative = relative_maps(maps, means)
    assert relative["aesthetic"].tolist() == [[-0.5, 1.5]]
    assert relative["salient"].tolist() == [[1.5]]
    assert "validation" in reference_text(means)
    relative = relative_maps(maps, None)
    assert relative["aesthetic"].tolist() == [[-1.0, 1.0]]
    assert "mean of each view" in reference_text(None)


def test_the_scale_holds_nearly_all_points_and_is_never_empty():
    maps = {"a": np.linspace(-1, 0, 100).reshape(10, 10), "b": np.linspace(0, 1, 100).reshape(10, 10)}
    assert colour_limit(maps) == pytest.approx(0.98, abs=0.01)
    assert colour_limit({"a": np.zeros((2, 2))}) > 0


def test_the_table_of_colours_has_those_that_maps_are_painted_with():
    scaled = np.linspace(-1, 1, 256)
    np.testing.assert_array_equal(colour_table(), paint(scaled[None], 1.0)[0, :, :3])
