"""The one error of this package, and words of its messages."""

from collections.abc import Sequence


class DataError(Exception):
    """Data that cannot be used. Says what was expected, found, and to do, in at most five lines."""


def listed(names: Sequence[str], most: int = 5) -> str:
    """Names for a message: the first few, and the number of the rest."""
    shown = ", ".join(repr(name)[1:-1] if "\n" in name else name for name in names[:most])
    return shown + (f" and {len(names) - most:,} more" if len(names) > most else "")


def counted(number: int, one: str, many: str = "") -> str:
    """As `1 child` or `2 children`."""
    return f"{number:,} {one if number == 1 else many or one + 's'}"
