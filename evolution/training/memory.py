"""Out of memory, on the host or a device, as one short message."""

from __future__ import annotations

import errno

import jax

# XLA has a code for it on accelerators, and none on CPUs.
_WORDS = ("RESOURCE_EXHAUSTED", "Out of memory", "out of memory", "std::bad_alloc")
_ADVICE = (
    "lower batch_size (--set batch_size=N), validation_examples, or image sizes "
    "(--set defaults.ds_image_size=N), or give it more memory; what was saved goes on from there"
)
_LONGEST = 200  # characters of the library's own words, which may list every buffer


def exhausted(error: BaseException) -> str | None:
    """The message for an out-of-memory error; None for other errors."""
    text = str(error)
    known = isinstance(error, MemoryError)  # numpy's is one
    known = known or (isinstance(error, OSError) and error.errno == errno.ENOMEM)
    if isinstance(error, jax.errors.JaxRuntimeError):
        known = any(word in text for word in _WORDS)
    if not known:
        return None
    first = (text.strip().splitlines() or ["no more is known"])[0]
    return f"out of memory: {first[:_LONGEST]}\n{_ADVICE}"
