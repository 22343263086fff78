"""`tensors`, imported when somebody asks for arrays: NumPy takes 13 MB and a tenth of a second.

Who lists, checks or follows a store needs none.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from model_store.tensors import Tree
else:
    Tree = Any

__all__ = ["Tree", "decode", "encode"]


def encode(tree: Tree) -> bytes:
    """As of `tensors`."""
    from model_store import tensors

    return tensors.encode(tree)


def decode(buffer: bytes | bytearray | memoryview) -> Tree:
    """As of `tensors`."""
    from model_store import tensors

    return tensors.decode(buffer)
