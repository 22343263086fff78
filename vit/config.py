"""What a path's network looks like: sizes, depth, adapters, image and patch size."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

# Width, heads and MLP width by name: table 1 of the ViT paper (arXiv 2010.11929); Ti from DeiT.
SIZES = {
    "Ti": (192, 3, 768),
    "S": (384, 6, 1536),
    "B": (768, 12, 3072),
    "L": (1024, 16, 4096),
}


@dataclass(frozen=True, slots=True)
class Architecture:
    """The shape of one path's network; hashable, so that it can key compiled programs."""

    width: int
    heads: int
    mlp_dim: int
    patch_size: int
    image_size: int  # pixels on each side, after resizing
    num_layers: int  # transformer blocks, 0 and up
    num_classes: int
    adapters: tuple[int, ...] = ()  # blocks with a residual adapter before them, ascending
    adapter_dim: int = 32  # inner width of an adapter

    def __post_init__(self) -> None:
        """Raises ValueError where no such network exists."""
        for field in fields(self):
            smallest = 0 if field.name == "num_layers" else 1
            if field.name != "adapters" and getattr(self, field.name) < smallest:
                raise ValueError(
                    f"{field.name} must be at least {smallest}, found {getattr(self, field.name)}"
                )
        if self.width % self.heads:
            raise ValueError(f"width {self.width} is not a multiple of heads {self.heads}")
        if self.image_size < self.patch_size:
            raise ValueError(f"image_size {self.image_size} < patch_size {self.patch_size}")
        if tuple(sorted(set(self.adapters))) != self.adapters:
            raise ValueError(f"adapters must be ascending and distinct, found {self.adapters}")
        if self.adapters and not 0 <= self.adapters[0] <= self.adapters[-1] < self.num_layers:
            raise ValueError(
                f"adapters {self.adapters} need as many blocks, found {self.num_layers}"
            )

    @classmethod
    def named(cls, name: str, **others: Any) -> Architecture:
        """The architecture of a named size (Ti, S, B, L); `others` are all other fields."""
        if name not in SIZES:
            raise ValueError(f"unknown size {name!r}: expected one of {', '.join(SIZES)}")
        width, heads, mlp_dim = SIZES[name]
        return cls(width=width, heads=heads, mlp_dim=mlp_dim, **others)

    @property
    def grid(self) -> int:
        """Patches on each side; pixels beyond the last whole patch are not seen."""
        return self.image_size // self.patch_size

    @property
    def tokens(self) -> int:
        """Tokens a block sees: the patches and the class token."""
        return self.grid**2 + 1

    @property
    def component_names(self) -> tuple[str, ...]:
        """Names of the path's components, in the order of the forward pass."""
        names, adapters = ["embedding", "cls", "posembed_input"], set(self.adapters)
        for i in range(self.num_layers):
            if i in adapters:
                names.append(f"residual_adapter_{i}")
            names.append(f"encoderblock_{i}")
        return (*names, "encoder_norm", "head")

    def to_json(self) -> dict[str, Any]:
        """The JSON object that a path spec carries."""
        return {**asdict(self), "adapters": list(self.adapters)}

    @classmethod
    def from_json(cls, json: Mapping[str, Any]) -> Architecture:
        """Inverse of `to_json`; raises ValueError naming what is missing or unknown."""
        try:
            return cls(**{**json, "adapters": tuple(json.get("adapters", ()))})
        except TypeError as error:
            raise ValueError(f"not an architecture: {error}") from None
