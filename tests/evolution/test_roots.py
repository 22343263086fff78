"""The root that ships, and how its training images are drawn."""

import jax
import numpy as np

from evolution.roots import SHIPPED, encode_root, shipped_root
from evolution.tasks import draw_character
from vit import shapes


def test_the_shipped_root_is_a_trained_network_of_its_architecture():
    arch, components = shipped_root()
    assert list(components) == list(arch.component_names)
    for name, tree in components.items():
        found = jax.tree.map(lambda x: (x.shape, x.dtype), tree)
        assert found == jax.tree.map(lambda x: (x.shape, x.dtype), shapes(arch, name))
        assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(tree))
    assert np.abs(components["cls"]).max() > 0  # zeros before training


def test_what_is_read_of_a_root_file_is_written_again_byte_for_byte():
    _, components = shipped_root()
    assert encode_root(components) == SHIPPED.read_bytes()


def test_characters_are_cropped_to_their_ink_and_strokes_widened():
    page = np.ones((105, 105, 1), np.uint8)
    page[30:70, 40:43] = 0  # an upright stroke, 3 pixels wide
    drawn = draw_character(page, 1, 32)
    assert drawn.shape == (32, 32, 1) and drawn.dtype == np.uint8
    inked = (drawn[..., 0] < 128).any(0)
    assert (drawn[:, inked, 0] < 128).all()  # from the top edge to the bottom
    assert 0 < inked.sum() < 16  # and not stretched over the whole width
    wider = (draw_character(page, 5, 32)[..., 0] < 128).any(0)
    assert wider.sum() > inked.sum()
