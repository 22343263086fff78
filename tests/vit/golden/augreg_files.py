"""Writes a small AugReg file in both numberings of a block, and the logits of the original code.

    git clone https://github.com/google-research/vision_transformer
    pip install flax absl-py pandas tensorflow tqdm scipy          # in an environment of its own
    PYTHONPATH=vision_transformer python -m tests.vit.golden.augreg_files

`vit_jax` loads the files itself (`load_pretrained`, which also resamples position embeddings). The
published files call a block's parts by pre-Linen numbers; `vit_jax` renames them on loading.
"""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import jax
import numpy as np
from flax.core import unfreeze
from numpy.typing import NDArray
from vit_jax import checkpoint, models_vit  # pyright: ignore[reportMissingImports]

from tests.vit.golden.networks import flat_weights, images

FOLDER = Path(__file__).parent / "pretrained"
FIELDS = dict(
    width=16, heads=2, mlp_dim=24, patch_size=4, image_size=12, num_layers=2, num_classes=5
)
SIZES = (12, 20)  # image sizes of the logits: the file's own and one that needs resampling
TOP = ("embedding", "cls", "head")  # all others are below `Transformer`
PRE_LINEN = {
    "MultiHeadDotProductAttention_0": "MultiHeadDotProductAttention_1",
    "LayerNorm_1": "LayerNorm_2",
    "MlpBlock_0": "MlpBlock_3",
}


def file_arrays(renamed: dict[str, str]) -> dict[str, NDArray[np.float32]]:
    """The file's arrays by '/'-joined key; `renamed` are parts of a block."""
    arrays = {}
    for component, leaves in flat_weights(FIELDS, 1.0).items():
        for path, value in leaves.items():
            parts = [] if component in TOP else ["Transformer"]
            parts += [component, *(renamed.get(part, part) for part in path.split("/") if part)]
            arrays["/".join(parts)] = value
    random = np.random.RandomState(2)
    arrays["pre_logits/kernel"] = random.standard_normal((16, 16)).astype(np.float32)
    arrays["pre_logits/bias"] = random.standard_normal(16).astype(np.float32)
    return arrays


def logits(file: Path, size: int) -> NDArray[np.float32]:
    """What the original answers with the file's weights and head: [images, classes]."""
    config = SimpleNamespace(classifier="token", get=lambda key: None)
    model = models_vit.VisionTransformer(
        num_classes=FIELDS["num_classes"],
        patches=SimpleNamespace(size=(FIELDS["patch_size"],) * 2),
        transformer=dict(
            num_layers=FIELDS["num_layers"], mlp_dim=FIELDS["mlp_dim"], num_heads=FIELDS["heads"]
        ),
        hidden_size=FIELDS["width"],
    )
    x = images(size)
    fresh = unfreeze(model.init(jax.random.key(0), x, train=False)["params"])
    # load_pretrained keeps the fresh head, which is zero.
    fresh["head"] = dict(checkpoint.load(file)["head"])
    params = checkpoint.load_pretrained(
        pretrained_path=file, init_params=fresh, model_config=config
    )
    return np.asarray(model.apply({"params": params}, x, train=False))


if __name__ == "__main__":
    for name, renamed in (("augreg_pre_linen", PRE_LINEN), ("augreg_linen", {})):
        np.savez(FOLDER / f"{name}.npz", **file_arrays(renamed))  # pyright: ignore
    recorded = {str(size): logits(FOLDER / "augreg_pre_linen.npz", size) for size in SIZES}
    for size in SIZES:  # the original takes both numberings for the same network
        same = logits(FOLDER / "augreg_linen.npz", size)
        np.testing.assert_array_equal(recorded[str(size)], same)
    np.savez(FOLDER / "augreg_logits.npz", **recorded)  # pyright: ignore
