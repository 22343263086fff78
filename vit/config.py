"""What a path's network looks like: sizes, depth, adapters, image and patch size.

The last fields tell apart the vision transformers that others train. They have a default, that of
the published μNet systems, and a path spec says only what differs from it.
"""

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
ACTIVATIONS = ("gelu_tanh", "gelu", "quick_gelu", "relu", "silu")
# What the head reads: the first token, the mean of the patches, both, or the first two tokens.
POOLINGS = ("token", "mean", "token_and_mean", "two_tokens")
LARGEST_EPSILON = 0.1


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
    activation: str = "gelu_tanh"  # of a block's MLP; an adapter's is always gelu_tanh
    norm_epsilon: float = 1e-6  # of all layer norms but those of adapters
    prefix_tokens: int = 1  # before the patches: class token, distillation token, registers
    input_norm: bool = False  # a layer norm behind the position embeddings
    pooling: str = "token"
    norm_after_pooling: bool = False  # the final layer norm

    def __post_init__(self) -> None:
        """Raises ValueError where no such network exists."""
        for name, smallest in _SMALLEST.items():
            if getattr(self, name) < smallest:
                raise ValueError(f"{name} must be at least {smallest}, found {getattr(self, name)}")
        self._require_known_kinds()
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

    def _require_known_kinds(self) -> None:
        for name, known in (("activation", ACTIVATIONS), ("pooling", POOLINGS)):
            if getattr(self, name) not in known:
                found = f"{getattr(self, name)!r:.80}"
                raise ValueError(f"{name} must be one of {', '.join(known)}, found {found}")
        for name in ("input_norm", "norm_after_pooling"):
            if type(getattr(self, name)) is not bool:
                raise ValueError(f"{name} must be true or false, found {getattr(self, name)!r:.80}")
        if type(self.norm_epsilon) is not float or not 0 < self.norm_epsilon <= LARGEST_EPSILON:
            raise ValueError(
                f"norm_epsilon must be above 0 and at most {LARGEST_EPSILON}, "
                f"found {self.norm_epsilon!r:.80}"
            )
        if self.norm_after_pooling and self.pooling != "mean":
            raise ValueError(f"norm_after_pooling needs pooling mean, found {self.pooling}")
        read = {"token": 1, "token_and_mean": 1, "two_tokens": 2}.get(self.pooling, 0)
        if self.prefix_tokens < read:
            raise ValueError(
                f"pooling {self.pooling} needs {read} prefix_tokens, found {self.prefix_tokens}"
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
        """Tokens a block sees: those before the patches, and the patches."""
        return self.grid**2 + self.prefix_tokens

    @property
    def features(self) -> int:
        """How many numbers the head reads."""
        return self.width * (2 if self.pooling in ("token_and_mean", "two_tokens") else 1)

    @property
    def one_token_answers(self) -> bool:
        """Whether nothing behind the last block reads another token than the first."""
        return self.pooling == "token"

    @property
    def component_names(self) -> tuple[str, ...]:
        """Names of the path's components, in the order of the forward pass."""
        names, adapters = ["embedding", "posembed_input"], set(self.adapters)
        if self.prefix_tokens:
            names.insert(1, "cls")
        for i in range(self.num_layers):
            if i in adapters:
                names.append(f"residual_adapter_{i}")
            names.append(f"encoderblock_{i}")
        return (*names, "encoder_norm", "head")

    def to_json(self) -> dict[str, Any]:
        """The JSON object that a path spec carries."""
        found = {**asdict(self), "adapters": list(self.adapters)}
        return {k: v for k, v in found.items() if k not in _OTHERS or v != _OTHERS[k]}

    @classmethod
    def from_json(cls, json: Mapping[str, Any]) -> Architecture:
        """Inverse of `to_json`; raises ValueError naming what is missing or unknown."""
        try:
            return cls(**{**json, "adapters": tuple(json.get("adapters", ()))})
        except TypeError as error:
            raise ValueError(f"not an architecture: {error}") from None


_SMALLEST = {
    field.name: 0 if field.name in ("num_layers", "prefix_tokens") else 1
    for field in fields(Architecture)
    if field.type == "int"
}
_NAMES = [field.name for field in fields(Architecture)]
# Fields that a path spec leaves out where they have their default.
_OTHERS = {
    field.name: field.default for field in fields(Architecture)[_NAMES.index("activation") :]
}
