"""How the training images of the shipped root are drawn."""

import numpy as np

from evolution.data.omniglot import draw_character


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
