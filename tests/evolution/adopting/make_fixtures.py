# ruff: noqa: T201
"""Makes the fixtures of the tests of `munet adopt`: run by `make adopt-fixtures`, in its own venv.

Tiny networks of random weights, saved by the libraries themselves. Next to each is `expected.npz`:
what its library makes of `picture.png`, as `pixels` [3, h, w] and `logits` [classes]. Weights are
drawn widely, so that every number of the forward pass shows in the logits. `files` has pictures of
many formats, and in `logits.json` what each network answers to each of them, as its library opens
it.
"""

from __future__ import annotations

import io
import json
import shutil
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
from peft import LoraConfig, get_peft_model
from PIL import Image, ImageDraw
from timm.data import create_transform, resolve_data_config
from timm.models import save_for_hf
from timm.models.vision_transformer import VisionTransformer
from transformers import (
    BitImageProcessorPil,
    DeiTConfig,
    DeiTForImageClassification,
    DeiTForImageClassificationWithTeacher,
    DeiTImageProcessorPil,
    Dinov2Config,
    Dinov2ForImageClassification,
    Dinov2WithRegistersConfig,
    Dinov2WithRegistersForImageClassification,
    IJepaConfig,
    IJepaForImageClassification,
    ViTConfig,
    ViTForImageClassification,
    ViTImageProcessor,
    ViTImageProcessorPil,
    ViTMSNConfig,
    ViTMSNForImageClassification,
)
from transformers.image_utils import load_image

TABLE = Path("evolution/adopting/timm_architectures.json")
LABELS = ["tabby cat", 'naïve, "quoted"', "dog", "owl", "fox"]
SIZES = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
PLAIN = {**SIZES, "intermediate_size": 24}
NAMED = {
    "id2label": dict(enumerate(LABELS)),
    "label2id": {label: i for i, label in enumerate(LABELS)},
}
IMAGENET = {"image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225]}


def picture() -> Image.Image:
    """Shapes on a gradient, with some noise: every resampling filter makes something else of it."""
    rows, columns = np.mgrid[:61, :83]
    pixels = np.stack([columns * 3, rows * 4, 255 - columns * 2 - rows], -1).astype(float)
    pixels += np.random.default_rng(7).normal(0, 12, pixels.shape)
    image = Image.fromarray(pixels.clip(0, 255).astype(np.uint8))
    draw = ImageDraw.Draw(image)
    draw.ellipse((9, 7, 40, 38), fill=(250, 240, 20))
    draw.rectangle((48, 22, 75, 55), outline=(10, 10, 120), width=3)
    return image


def files(image: Image.Image) -> dict[str, bytes]:
    """Pictures in the formats, modes and orientations that libraries open alike."""

    def saved(image: Image.Image, format: str, **options: Any) -> bytes:
        file = io.BytesIO()
        image.save(file, format, **options)
        return file.getvalue()

    turned, small = Image.Exif(), image.crop((5, 3, 46, 36))
    turned[0x0112] = 6
    clear, grey = small.copy(), small.convert("L")
    clear.putalpha(grey)
    return {
        "photo.jpg": saved(small, "JPEG"),
        "progressive.jpg": saved(small, "JPEG", progressive=True, subsampling=0),
        "turned.jpg": saved(small, "JPEG", exif=turned),
        "inks.jpg": saved(small.convert("CMYK"), "JPEG"),
        "grey.jpg": saved(grey, "JPEG"),
        "clear.png": saved(clear, "PNG"),
        "grey.png": saved(clear.convert("LA"), "PNG"),
        "bits.png": saved(small.convert("1"), "PNG"),
        "palette.png": saved(small.quantize(40), "PNG"),
        "turned.png": saved(small, "PNG", exif=turned),
        "film.gif": saved(small.quantize(40), "GIF", save_all=True, append_images=[grey]),
        "photo.webp": saved(small, "WEBP"),
        "clear.webp": saved(clear, "WEBP", lossless=True),
        "plain.bmp": saved(small.crop((0, 0, 12, 9)), "BMP"),
    }


def answers(folder: Path, answer: Callable[[Path], torch.Tensor]) -> dict[str, list[float]]:
    """The logits for each of the files."""
    with torch.no_grad():
        return {
            file.name: [round(float(x), 6) for x in answer(file)]
            for file in sorted((folder.parent / "files").iterdir())
        }


def randomised(model: torch.nn.Module) -> torch.nn.Module:
    """With parameters drawn at random: scales about 1, all else about 0."""
    generator = torch.Generator().manual_seed(len(list(model.parameters())))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator) * 0.25
            scale = "norm" in name and name.endswith("weight")
            scale = scale or "lambda1" in name or name.endswith("gamma")
            parameter.copy_(1 + noise if scale else noise)
    return model.eval()


def keep(folder: Path, pixels: torch.Tensor, model: torch.nn.Module, **more: Any) -> None:
    with torch.no_grad():
        answer = model(pixels[None])
    logits = getattr(answer, "logits", answer)[0]
    spread = float(logits.max() - logits.min())
    print(f"{folder.name}: logits {np.round(logits.numpy(), 3)}, spread {spread:.2f}", more or "")
    np.savez_compressed(folder / "expected.npz", pixels=pixels.numpy(), logits=logits.numpy())


# ---- transformers


def save_hugging_face(
    folder: Path, image: Image.Image, told: dict[str, Any], name: str, model: Any, processor: Any,
    **options: Any,
) -> Any:  # fmt: skip
    """Saves a model with random parameters, its processor and its answers; the model."""
    model = randomised(model)
    model.save_pretrained(folder / name, **options)
    processor.save_pretrained(folder / name)
    pixels = processor(image, return_tensors="pt")["pixel_values"][0]
    keep(folder / name, pixels, model)

    def answer(file: Path) -> torch.Tensor:
        return model(**processor(load_image(str(file)), return_tensors="pt")).logits[0]

    told[f"hf/{name}"] = answers(folder, answer)
    return model


def hugging_face(folder: Path, image: Image.Image, told: dict[str, Any]) -> None:
    """One folder for each class of models."""
    square = {"size": {"height": 32, "width": 32}}
    save = partial(save_hugging_face, folder, image, told)
    vit = ViTConfig(**PLAIN, **NAMED, image_size=32, patch_size=8)
    model = save("vit", ViTForImageClassification(vit), ViTImageProcessorPil(**square))
    lora(folder, model, vit)
    other = ViTImageProcessor(**square)(image, return_tensors="np")["pixel_values"][0]
    compare_resizes(folder / "vit", model, torch.from_numpy(other))

    variant = ViTConfig(
        **PLAIN, **NAMED, image_size=28, patch_size=14, qkv_bias=False,
        hidden_act="gelu_pytorch_tanh", layer_norm_eps=1e-3,
    )  # fmt: skip
    processor = ViTImageProcessorPil(
        size={"height": 28, "width": 28}, resample=1, do_normalize=False
    )
    save("vit-variant", ViTForImageClassification(variant), processor, max_shard_size="12KB")

    deit = DeiTConfig(**PLAIN, **NAMED, image_size=32, patch_size=8, hidden_act="relu")
    processor = DeiTImageProcessorPil(
        size={"height": 41, "width": 41}, crop_size={"height": 32, "width": 32}
    )
    save("deit", DeiTForImageClassification(deit), processor)
    deit = DeiTConfig(**PLAIN, **NAMED, image_size=32, patch_size=16)
    save("deit-distilled", DeiTForImageClassificationWithTeacher(deit), processor)

    processor = BitImageProcessorPil(
        size={"shortest_edge": 37}, crop_size={"height": 28, "width": 28}, resample=3, **IMAGENET
    )
    dino = Dinov2Config(**SIZES, **NAMED, mlp_ratio=2, image_size=42, patch_size=14)
    save("dinov2", Dinov2ForImageClassification(dino), processor)
    registers = Dinov2WithRegistersConfig(
        **SIZES, **NAMED, mlp_ratio=2, image_size=42, patch_size=14, num_register_tokens=3
    )
    save("dinov2-registers", Dinov2WithRegistersForImageClassification(registers), processor)

    msn = ViTMSNConfig(**PLAIN, **NAMED, image_size=32, patch_size=8, hidden_act="quick_gelu")
    save("vit-msn", ViTMSNForImageClassification(msn), ViTImageProcessorPil(**square))
    ijepa = IJepaConfig(**PLAIN, **NAMED, image_size=32, patch_size=8)
    save("ijepa", IJepaForImageClassification(ijepa), ViTImageProcessorPil(**square, resample=3))


def compare_resizes(folder: Path, model: Any, other: torch.Tensor) -> None:
    """Prints how far torchvision's pixels, and their logits, are from those of Pillow."""
    pil = torch.from_numpy(np.load(folder / "expected.npz")["pixels"])
    levels = ((other - pil).abs() * 127.5).round()
    with torch.no_grad():
        apart = (model(other[None]).logits - model(pil[None]).logits).abs().max()
    print(f"torchvision's resize: at most {levels.max():.0f} grey levels, logits {apart:.1e} apart")


def lora(folder: Path, base: Any, config: ViTConfig) -> None:
    """Adapters of the first model: plain with a head of their own, and rank-stabilised."""
    names = [n for n, _ in base.named_modules() if n.endswith(("q_proj", "v_proj", "fc1"))]
    names = sorted({name.rpartition(".")[2] for name in names}) or ["query", "value"]
    pixels = torch.from_numpy(np.load(folder / "vit" / "expected.npz")["pixels"])
    for name, options in (
        ("lora", {"modules_to_save": ["classifier"], "r": 2, "lora_alpha": 6}),
        ("lora-rs", {"use_rslora": True, "r": 4, "lora_alpha": 3, "bias": "lora_only"}),
    ):
        state = {key: value.clone() for key, value in base.state_dict().items()}
        fresh = ViTForImageClassification(config)
        fresh.load_state_dict(state)
        model = get_peft_model(fresh, LoraConfig(target_modules=names, **options))
        generator = torch.Generator().manual_seed(3)
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.requires_grad:
                    parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.3)
        model.eval()
        model.peft_config["default"].base_model_name_or_path = "../vit"
        model.save_pretrained(folder / name)
        (folder / name / "README.md").unlink()
        file = folder / name / "adapter_config.json"
        told = json.loads(file.read_text())
        told["target_modules"].sort()  # a set, written in any order
        file.write_text(json.dumps(told, indent=2) + "\n")
        keep(folder / name, pixels, model)


# ---- timm


def of_timm(folder: Path, image: Image.Image, told: dict[str, Any]) -> None:
    """One folder for each kind of network, as timm writes them for the Hub."""
    tiny = {"embed_dim": 16, "depth": 2, "num_heads": 2, "mlp_ratio": 1.5}

    def save(name: str, architecture: str, cfg: dict[str, Any] | None = None, **args: Any) -> None:
        args = {"img_size": 32, **tiny, **args}
        size = args["img_size"]
        model = timm.create_model(
            architecture, num_classes=len(LABELS),
            pretrained_cfg_overlay={"input_size": (3, size, size), **(cfg or {})}, **args,
        )  # fmt: skip
        model = randomised(model)
        save_for_hf(
            model, folder / name,
            model_config={"model_args": args, "label_names": LABELS}, safe_serialization=True,
        )  # fmt: skip
        (folder / name / "pytorch_model.bin").unlink(missing_ok=True)
        transform = create_transform(**resolve_data_config({}, model=model), is_training=False)
        keep(folder / name, transform(image), model)

        def answer(file: Path) -> torch.Tensor:
            return model(transform(Image.open(file).convert("RGB"))[None])[0]

        told[f"timm/{name}"] = answers(folder, answer)

    save("vit", "vit_tiny_patch16_224", patch_size=8)
    save("gap", "vit_base_patch16_224", patch_size=8, qkv_bias=False, global_pool="avg",
         cfg={"crop_mode": "squash", "interpolation": "bilinear"})  # fmt: skip
    save("gap-fc", "vit_small_patch16_224", patch_size=8, class_token=False, global_pool="avg")
    save("registers", "vit_betwixt_patch16_reg4_gap_256", patch_size=8, init_values=0.5)
    save("registers-token", "vit_small_patch14_reg4_dinov2", patch_size=14, img_size=28)
    save("clip", "vit_base_patch32_clip_quickgelu_224", patch_size=16, img_size=32)
    save("deit", "deit_tiny_distilled_patch16_224", patch_size=16)
    augreg(folder.parent / "augreg", image)


def augreg(folder: Path, image: Image.Image) -> None:
    """A file as the AugReg paper published them; timm reads it, with the GELU of its training."""
    folder.mkdir(parents=True)
    w, heads, mlp, patch, layers, classes = 16, 2, 24, 8, 2, len(LABELS)
    d = w // heads
    block = {
        "LayerNorm_0/scale": (w,), "LayerNorm_0/bias": (w,),
        "LayerNorm_2/scale": (w,), "LayerNorm_2/bias": (w,),
        "MlpBlock_3/Dense_0/kernel": (w, mlp), "MlpBlock_3/Dense_0/bias": (mlp,),
        "MlpBlock_3/Dense_1/kernel": (mlp, w), "MlpBlock_3/Dense_1/bias": (w,),
        "MultiHeadDotProductAttention_1/out/kernel": (heads, d, w),
        "MultiHeadDotProductAttention_1/out/bias": (w,),
    }  # fmt: skip
    for part in ("query", "key", "value"):
        block[f"MultiHeadDotProductAttention_1/{part}/kernel"] = (w, heads, d)
        block[f"MultiHeadDotProductAttention_1/{part}/bias"] = (heads, d)
    shapes = {
        "cls": (1, 1, w), "embedding/kernel": (patch, patch, 3, w), "embedding/bias": (w,),
        "Transformer/posembed_input/pos_embedding": (1, 17, w),
        "Transformer/encoder_norm/scale": (w,), "Transformer/encoder_norm/bias": (w,),
        "head/kernel": (w, classes), "head/bias": (classes,),
    }  # fmt: skip
    for i in range(layers):
        shapes |= {f"Transformer/encoderblock_{i}/{key}": shape for key, shape in block.items()}
    rng = np.random.default_rng(5)
    arrays = {
        key: (key.endswith("scale") + rng.normal(0, 0.25, shape)).astype(np.float32)
        for key, shape in shapes.items()
    }
    np.savez(folder / "tiny.npz", **arrays)
    model = timm.create_model(
        "vit_tiny_patch16_224", img_size=32, patch_size=patch, embed_dim=w, depth=layers,
        num_heads=heads, mlp_ratio=mlp / w, num_classes=classes, act_layer="gelu_tanh",
    )  # fmt: skip
    model.load_pretrained(str(folder / "tiny.npz"))
    # Its published evaluation: the whole picture resized without antialias, scaled to -1 .. 1.
    pixels = torch.from_numpy(np.asarray(image, np.float32)).permute(2, 0, 1)
    resized = torch.nn.functional.interpolate(pixels[None], (32, 32), mode="bilinear")[0]
    keep(folder, resized / 127.5 - 1, model.eval())
    (folder / "labels.txt").write_text("\n".join(LABELS) + "\n")


# A block of another kind may have the same arrays, and compute something else.
PLAIN_PARTS = ("Block", "Attention", "Mlp", "PatchEmbed")
ACTIVATIONS = {"GELU": "gelu", "GELUTanh": "gelu_tanh", "QuickGELU": "quick_gelu"}


def table() -> dict[str, Any]:
    """Of each of timm's names: what weights alone do not tell; no row where it is no plain ViT."""
    found: dict[str, Any] = {}
    for name in timm.list_models(["vit_*", "deit_*", "deit3_*"]):
        with torch.device("meta"):
            model = timm.create_model(name)
        if not isinstance(model, VisionTransformer):
            continue
        block, norm = model.blocks[0], model.norm
        norm = model.fc_norm if isinstance(norm, torch.nn.Identity) else norm
        mlp, qkv = getattr(block, "mlp", None), getattr(getattr(block, "attn", None), "qkv", None)
        activation = ACTIVATIONS.get(type(getattr(mlp, "act", None)).__name__)
        parts = (block, getattr(block, "attn", None), mlp, model.patch_embed)
        plain = tuple(type(part).__name__ for part in parts) == PLAIN_PARTS
        if activation and plain and type(norm).__name__ == "LayerNorm":
            pool = "distilled" if hasattr(model, "head_dist") else model.global_pool
            biased = qkv.bias is not None
            found[name] = [block.attn.num_heads, activation, norm.eps, pool, biased]
    return found


def main(folder: Path) -> None:
    for kind in ("hf", "timm", "augreg", "files"):
        shutil.rmtree(folder / kind, ignore_errors=True)
    torch.manual_seed(0)  # of what PEFT draws
    image = picture()
    (folder / "files").mkdir(parents=True)
    image.save(folder / "picture.png")
    for name, data in files(image).items():
        (folder / "files" / name).write_bytes(data)
    told: dict[str, Any] = {}
    hugging_face(folder / "hf", image, told)
    of_timm(folder / "timm", image, told)
    (folder / "files" / "logits.json").write_text(json.dumps(told, indent=0) + "\n")
    rows = [f"{json.dumps(name)}: {json.dumps(row)}" for name, row in sorted(table().items())]
    TABLE.write_text("{\n" + ",\n".join(rows) + "\n}\n")
    size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
    print(f"{size:,} bytes in {folder}")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
