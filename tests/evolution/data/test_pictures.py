"""What a check sees of a picture: for each file that the one decoder takes, and no other."""

import zlib

import pytest

from evolution.data.picture_facts import facts_of
from tests.service.pictures.kinds import CLEAR, FILES, PICTURE, REFUSED, TURNED, with_chunk
from tests.service.pictures.made import saved
from vit.decode import decode

PNG = saved(PICTURE, "PNG")
TEXT = with_chunk(PNG, b"tEXt", b"Comment\0drawn")
# What a file holds besides its pixels refuses nothing.
EXTRAS = {
    "a text with a wrong checksum": TEXT.replace(b"drawn", b"Drawn"),
    "a text that is long once unpacked": with_chunk(
        PNG, b"zTXt", b"Comment\0\0" + zlib.compress(bytes(2 << 20))
    ),
    "a broken profile": with_chunk(PNG, b"iCCP", b"x\0\0" + bytes(9)),
    "a second picture behind it": saved(PICTURE, "JPEG") + saved(PICTURE, "JPEG"),
}


@pytest.mark.parametrize("name", [*FILES, *EXTRAS])
def test_a_file_that_is_served_can_be_trained_on(name):
    data = {**FILES, **EXTRAS}[name]
    facts = facts_of(data)
    assert (facts.height, facts.width) == decode(data).shape[:2]
    # Pillow opens each film in WEBP with transparency.
    assert facts.alpha == (name in CLEAR or name in ("turned ink.png", "animated.webp"))
    assert facts.turned == (name in TURNED and name != "turned 1.jpg")


@pytest.mark.parametrize("name", REFUSED)
def test_a_file_that_is_not_served_is_not_trained_on(name):
    data, text = REFUSED[name]
    with pytest.raises(ValueError, match=text):
        facts_of(data)
