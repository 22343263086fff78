"""The vision transformer, cut into components that evolution and serving share.

What is named here needs no JAX; `vit.components` and `vit.forward` compute with it.
"""

from vit.config import Architecture
from vit.parameters import kind_of, shapes
from vit.preprocess import preprocess

__all__ = ["Architecture", "kind_of", "preprocess", "shapes"]
