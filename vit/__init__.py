"""The vision transformer, cut into components that evolution and serving share."""

from vit.components import apply, init, kind_of, position_embedding_for, shapes
from vit.config import Architecture
from vit.forward import forward
from vit.preprocess import preprocess

__all__ = [
    "Architecture",
    "apply",
    "forward",
    "init",
    "kind_of",
    "position_embedding_for",
    "preprocess",
    "shapes",
]
