"""Sizes as people write them in settings."""

import re

_SIZE = re.compile(r"([0-9]{1,18}(?:\.[0-9]{1,9})?) ?(?:([KMGT])(I?))?B?", re.ASCII)
SIZE = "a number of bytes, such as 512MiB or 2GB"


def parse_size(text: str) -> int:
    """Bytes: a number, alone or with a unit from KB (1000) or KiB (1024) to TB or TiB.

    Raises ValueError.
    """
    found = _SIZE.fullmatch(text.strip().upper())
    if found is None:
        raise ValueError(f"expected {SIZE}, found {text!r}")
    number, prefix, binary = found.groups()
    power = 0 if prefix is None else 1 + "KMGT".index(prefix)
    return int(float(number) * (1024 if binary else 1000) ** power)
