"""The model card's sections on how an export is used, and on what its pixels are."""

from __future__ import annotations

from evolution.adopting.export_markdown import table
from evolution.adopting.export_pixels import Difference
from vit.decode import VIEWER, Decoding


def use(size: int, decoding: Decoding) -> str:
    """Code for transformers and for ONNX; open_exports.py of the tests runs it."""
    opened = "Image.open(file)"
    lines = [f"    image = ImageOps.exif_transpose({opened})" if decoding.turned
             else f"    image = {opened}"]  # fmt: skip
    if decoding.background is not None:
        grey = f"({', '.join([str(decoding.background)] * 3)}, 255)"
        lines += [
            "    if image.has_transparency_data:",
            '        image = image.convert("RGBA")',
            f'        under = Image.new("RGBA", image.size, {grey})',
            "        image = Image.alpha_composite(under, image)",
        ]
    scaled = "x / 127.5 - 1"
    if decoding.pixel_scale != 1:
        scaled = f"(x * {decoding.pixel_scale}).clamp(max=255) / 127.5 - 1"
    body = "\n".join(lines)
    imported = "Image, ImageOps" if decoding.turned else "Image"
    return f"""## Use

```python
from transformers import pipeline

classify = pipeline("image-classification", model="FOLDER")  # this folder, or its name on the Hub
print(classify("picture.jpg"))
```

The pipeline's pixels differ from those that the network was trained and measured on (next section).
This code has the same ones:

```python
import numpy
import torch
from PIL import {imported}
from transformers import AutoModelForImageClassification

model = AutoModelForImageClassification.from_pretrained("FOLDER").eval()


def pixels(file):
{body}
    if image.mode.startswith("I"):  # 16 bits
        image = Image.fromarray((numpy.array(image) >> 8).clip(0, 255).astype("uint8"))
    x = torch.tensor(numpy.array(image.convert("RGB"))).permute(2, 0, 1)[None].float()
    x = torch.nn.functional.interpolate(x, ({size}, {size}), mode="bilinear", antialias=False)
    return {scaled}


def answer(file):
    with torch.no_grad():
        return model(pixels(file)).logits[0]


logits = answer("picture.jpg")
print(model.config.id2label[int(logits.argmax())])
```

To ONNX, with PyTorch's own exporter:

```python
torch.onnx.export(
    model, (torch.zeros(1, 3, {size}, {size}),), "model.onnx", dynamo=True,
    input_names=["pixel_values"], output_names=["logits"],
    dynamic_shapes=({{0: torch.export.Dim("batch")}},),
)
```"""


def pixels(size: int, decoding: Decoding, differences: list[Difference]) -> str:
    """What `preprocessor_config.json` cannot say, and how large the difference is."""
    rows = [
        (f"{each.side} x {each.side}", f"{each.mean:.1f}", f"{each.p99:.1f}")
        for each in differences
    ]
    turned = (
        "A picture is turned as its EXIF or XMP says."
        if decoding.turned
        else "A picture is used as it is stored: an orientation flag turns nothing. "
        "transformers' pipeline turns it."
    )
    alpha = (
        "Transparency is dropped: the colours under it are seen. The image processor does the\n"
        "  same."
        if decoding.background is None
        else f"What is transparent is laid on grey {decoding.background} (of 255; 255 is white).\n"
        "  The image processor drops transparency, and sees the colours under it."
    )
    scale = (
        f"\n- Grey levels are multiplied by {decoding.pixel_scale}, up to 255: the files hold "
        "small numbers. The image processor cannot do that; use the code above."
        if decoding.pixel_scale != 1
        else ""
    )
    jpeg = (
        ""
        if decoding.name == VIEWER.name
        else "\n- JPEG files were decoded by TensorFlow in training; other decoders differ by\n"
        "  about one grey level."
    )
    measured = table(["picture", "mean difference", "99 of 100 pixels differ by less than"], rows)
    return f"""## Pixels

The network takes {size} x {size} pixels, RGB, scaled to -1 … 1 (`x / 127.5 - 1`); the aspect is not
kept and nothing is cropped. `preprocessor_config.json` says that as far as it can. It cannot say:

- The picture is resized by bilinear interpolation **without antialiasing**. The image processor's
  bilinear resize has it. Pictures of {size} x {size} pixels are the same by both, smaller ones to
  one grey level; larger ones differ, in grey levels of 255, measured on drawn pictures with the
  spectrum of photographs:

{_indented(measured)}

- {turned}
- {alpha}
- Of 16-bit pictures the upper 8 bits are used; colour profiles are ignored.{jpeg}{scale}"""


def _indented(lines: str) -> str:
    return "\n".join(f"  {line}" for line in lines.splitlines())
