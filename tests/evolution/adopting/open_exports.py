"""Opens exports as a stranger does: with PyTorch and transformers, and without munet.

Every Python block of the model card is run as it is printed; its logits are those that the store's
own network gives for the same files. Then the ONNX file that it writes is run, where onnxruntime is
there. Run with a Python that has PyTorch: python open_exports.py FOLDER (exported.py writes it)
"""

from __future__ import annotations

import importlib.util
import json
import os
import re
import sys
from pathlib import Path
from typing import Any

import numpy as np

TOLERANCE = 1e-4


def blocks(card: str) -> list[str]:
    """The card's Python code."""
    return re.findall(r"```python\n(.*?)```", card, re.DOTALL)


def check(folder: Path, expected: dict[str, list[float]]) -> float:
    """The largest difference of a logit; runs in the folder of the pictures."""
    code: dict[str, Any] = {}
    labels = json.loads((folder / "config.json").read_text())["id2label"]
    for block in blocks((folder / "README.md").read_text()):
        block = block.replace("FOLDER", str(folder)).replace("picture.jpg", "photo.jpg")
        exec(block, code)
    assert {str(k): v for k, v in code["model"].config.id2label.items()} == labels
    found = {file: code["answer"](file).numpy() for file in expected}
    worst = max(float(np.abs(found[file] - expected[file]).max()) for file in expected)
    assert worst < TOLERANCE, f"{folder}: {worst}, expected less than {TOLERANCE}"
    # The pipeline has the same labels, and its probabilities add up to 1 where they should.
    answers = code["classify"]("photo.jpg", top_k=len(labels))
    assert {answer["label"] for answer in answers} == set(labels.values())
    one = code["model"].config.problem_type == "single_label_classification"
    assert (abs(sum(answer["score"] for answer in answers) - 1) < TOLERANCE) == one
    if importlib.util.find_spec("onnxruntime"):
        worst = max(worst, _run_onnx(code, expected))
    return worst


def _run_onnx(code: dict[str, Any], expected: dict[str, list[float]]) -> float:
    import onnxruntime

    session = onnxruntime.InferenceSession("model.onnx")
    pixels = np.concatenate([code["pixels"](file).numpy() for file in expected])
    (logits,) = session.run(["logits"], {"pixel_values": pixels})
    worst = float(np.abs(np.asarray(logits) - list(expected.values())).max())
    assert worst < TOLERANCE, f"ONNX: {worst}, expected less than {TOLERANCE}"
    return worst


def main(folder: Path) -> None:
    """Checks every export in the folder."""
    os.chdir(folder)
    for expected in sorted(folder.glob("*.json")):
        worst = check(folder / expected.stem, json.loads(expected.read_text()))
        sys.stdout.write(f"{expected.stem}: logits equal to {worst:.1e}\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]).absolute())
