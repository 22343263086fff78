"""The model card's sections on the use of an export and on its pixels."""

from __future__ import annotations

from evolution.adopting.export_markdown import table
from evolution.adopting.export_pixels import Difference
from vit.activation import SIGMOID
from vit.contract import Contract, Target, size_of
from vit.decode import TENSORFLOW, Decoding, least_side


def use(target: Target, decoding: Decoding, activation: str) -> str:
    """Code for transformers and for ONNX, which tests/evolution/adopting/open_exports.py runs."""
    return f"""## Use

```python
from transformers import pipeline

classify = pipeline("image-classification", model="FOLDER")  # this folder, or its name on the Hub
print(classify("picture.jpg"))
```

The pipeline's pixels can differ from those that the network was trained and measured on (next
section). This code has the same ones:

{_exact_code(target, decoding, activation)}

To ONNX, with PyTorch's own exporter:

{_onnx_code(size_of(target))}"""


def _exact_code(target: Target, decoding: Decoding, activation: str) -> str:
    contract = isinstance(target, Contract)
    classes = f"{'AutoImageProcessor, ' * contract}AutoModelForImageClassification"
    imported = "" if contract else "from torch.nn.functional import interpolate\n"
    loaded = (
        'processor = AutoImageProcessor.from_pretrained("FOLDER", use_fast=False)\n'
        if contract
        else ""
    )
    answered = "print(model.config.id2label[int(logits.argmax())])"
    if activation == SIGMOID:
        answered = (
            "print(dict(zip(model.config.id2label.values(), torch.sigmoid(logits).tolist())))"
        )
    return f"""```python
import numpy
import torch
from PIL import {"Image, ImageOps" if decoding.turned else "Image"}
{imported}from transformers import {classes}

{loaded}model = AutoModelForImageClassification.from_pretrained("FOLDER").eval()


def pixels(file):
{_opened(target, decoding)}
{_brought_to(target, decoding)}


def answer(file):
    with torch.no_grad():
        return model(pixels(file)).logits[0]


logits = answer("picture.jpg")
{answered}
```"""


def _onnx_code(size: int) -> str:
    return f"""```python
torch.onnx.export(
    model, (torch.zeros(1, 3, {size}, {size}),), "model.onnx", dynamo=True,
    input_names=["pixel_values"], output_names=["logits"],
    dynamic_shapes=({{0: torch.export.Dim("batch")}},),
)
```"""


def _opened(target: Target, decoding: Decoding) -> str:
    lines = ["image = Image.open(file)"]
    if decoding.reduced:
        side = least_side(target)
        lines.append(f"image.draft(None, ({side}, {side}))  # a large JPEG at reduced size")
    if decoding.turned:
        lines.append("image = ImageOps.exif_transpose(image)")
    if decoding.background is not None:
        grey = f"({', '.join([str(decoding.background)] * 3)}, 255)"
        lines += [
            "if image.has_transparency_data:",
            '    image = image.convert("RGBA")',
            f'    under = Image.new("RGBA", image.size, {grey})',
            "    image = Image.alpha_composite(under, image)",
        ]
    lines += [
        'if image.mode.startswith("I"):  # 16 bits',
        '    image = Image.fromarray((numpy.array(image) >> 8).clip(0, 255).astype("uint8"))',
    ]
    return "\n".join(f"    {line}" for line in lines)


def _brought_to(target: Target, decoding: Decoding) -> str:
    scale = decoding.pixel_scale
    scaled = f"    x = x.clamp(max={255 // scale}) * {scale}\n" if scale != 1 else ""
    if isinstance(target, Contract):
        return (
            '    image = image.convert("RGB")\n'
            '    return processor(images=image, return_tensors="pt")["pixel_values"]'
        )
    return f"""    x = torch.tensor(numpy.array(image.convert("RGB"))).permute(2, 0, 1)[None]
{scaled}    x = interpolate(x.float(), ({target}, {target}), mode="bilinear", antialias=False)
    return x / 127.5 - 1"""


# ---- pixels


def pixels(target: Target, decoding: Decoding, differences: list[Difference]) -> str:
    """What `preprocessor_config.json` cannot express, and the size of the difference."""
    size = size_of(target)
    if isinstance(target, Contract):
        told = f"""The network takes {size} x {size} pixels, as `preprocessor_config.json` says:
those of transformers' image processor with Pillow. With torchvision, its other way, single pixels
differ by a grey level.{_crop(target)} It cannot say:"""
        bullets = []
    else:
        told = f"""The network takes {size} x {size} pixels, scaled to -1 … 1 (`x / 127.5 - 1`); the
aspect is not kept and nothing is cropped. `preprocessor_config.json` says that as far as it can.
It cannot say:"""
        bullets = [_resize(size, differences)]
    listed = "\n".join(f"- {bullet}" for bullet in (*bullets, *_decoding(target, decoding)))
    return f"## Pixels\n\n{told}\n\n{listed}"


def _crop(contract: Contract) -> str:
    if contract.rounding == "down":
        return ""
    return (
        "\nWhere a crop cannot be quite in the middle, it begins one pixel earlier there than in\n"
        "the training of this network, in every second case."
    )


def _resize(size: int, differences: list[Difference]) -> str:
    rows = [
        (f"{each.side} x {each.side}", f"{each.mean:.1f}", f"{each.p99:.1f}")
        for each in differences
    ]
    measured = table(["picture", "mean difference", "99 of 100 pixels differ by less than"], rows)
    indented = "\n".join(f"  {line}" for line in measured.splitlines())
    return f"""The picture is resized by bilinear interpolation **without antialiasing**. The image
  processor's bilinear resize has it. Pictures of {size} x {size} pixels are the same by both,
  smaller ones to one grey level; larger ones differ, in grey levels of 255, measured on drawn
  pictures with the spectrum of photographs:

{indented}
"""


def _decoding(target: Target, decoding: Decoding) -> list[str]:
    found = []
    if decoding.reduced:
        side = least_side(target)
        found.append(
            "A JPEG is decoded at a half, a quarter or an eighth of its sides, as far as the\n"
            f"  shorter one keeps {side} pixels. transformers' pipeline decodes it whole: finer\n"
            "  detail, more noise. The code above does as training did."
        )
    if decoding.turned:
        found.append("A picture is turned as its EXIF or XMP says, as in transformers' pipeline.")
    else:
        found.append(
            "A picture is used as it is stored; its orientation flag is ignored.\n"
            "  transformers' pipeline turns it."
        )
    if decoding.background is None:
        found.append(
            "Transparency is dropped, as by the image processor: the colours under it are seen."
        )
    else:
        found.append(
            f"What is transparent is laid on grey {decoding.background} (255 is white). The image\n"
            "  processor drops transparency, and sees the colours under it."
        )
    found.append("Of 16-bit pictures the upper 8 bits are used; colour profiles are ignored.")
    if decoding.name == TENSORFLOW.name:
        found.append(
            "Where training read JPEG files, TensorFlow decoded them; other decoders differ by\n"
            "  about one grey level."
        )
    if decoding.pixel_scale != 1:
        found.append(
            f"Grey levels are multiplied by {decoding.pixel_scale}, up to 255, as the files hold\n"
            "  small numbers. The image processor cannot do that; the code above does."
        )
    return found
