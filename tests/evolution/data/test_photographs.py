"""Drawn photographs are as people's pictures are, and the same each time."""

import hashlib

import numpy as np
import pytest
from PIL import Image

from evolution.data.photographs import ORIENTATION, SURFACES, draw, main, photograph


def digests(files) -> list[str]:
    return [hashlib.sha256(file.read_bytes()).hexdigest() for file in files]


def test_each_class_has_turned_pictures_cut_out_ones_and_many_sizes(tmp_path):
    draw(tmp_path, each=24)
    assert sorted(folder.name for folder in tmp_path.iterdir()) == sorted(SURFACES)
    for surface in SURFACES:
        files = [Image.open(file) for file in sorted((tmp_path / surface).iterdir())]
        assert len(files) == 24
        assert len({file.size for file in files}) > 12
        assert {file.format for file in files} == {"JPEG", "PNG", "WEBP"}
        assert len({file.getexif().get(ORIENTATION, 1) for file in files}) > 1
        cut_out = [np.asarray(file) for file in files if file.mode == "RGBA"]
        assert cut_out and all(pixels[0, 0].tolist() == [0, 0, 0, 0] for pixels in cut_out)


def test_the_same_seed_draws_the_same_files_and_another_one_others(tmp_path, capsys):
    main(tmp_path / "first", each=2, seed=3)
    assert "8 pictures of boards, bricks, leaves, pebbles" in capsys.readouterr().out
    first = sorted(file for file in (tmp_path / "first").rglob("*") if file.is_file())
    assert len(set(digests(first))) == 8
    assert digests(draw(tmp_path / "second", each=2, seed=3)) == digests(first)
    assert not set(digests(draw(tmp_path / "third", each=2, seed=4))) & set(digests(first))


# Mean red, green and blue of six pictures of each surface.
COLOURS = {
    "boards": (143.121, 117.872, 88.666),
    "bricks": (151.615, 122.241, 97.386),
    "leaves": (123.453, 96.985, 45.325),
    "pebbles": (107.25, 99.222, 95.607),
}


@pytest.mark.parametrize("surface", SURFACES)
def test_they_stay_the_pictures_that_the_readmes_numbers_are_of(surface):
    rng = np.random.default_rng(0)
    drawn = [np.asarray(photograph(surface, rng)).mean((0, 1)) for _ in range(6)]
    assert np.mean(drawn, axis=0) == pytest.approx(COLOURS[surface], abs=0.01)
