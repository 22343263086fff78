"""The tasks as BentoML's documentation serves a model: one API that takes an image and a field."""

# It runs in an environment of its own (make peers).
# pyright: reportMissingImports=false

from __future__ import annotations

from typing import Any

import bentoml
from models import Models, best, pixels
from PIL.Image import Image


@bentoml.service(threads=2, traffic={"timeout": 60}, logging={"access": {"enabled": False}})
class Classifier:
    """Two worker threads in one process, as the models would be there twice in two."""

    def __init__(self) -> None:
        self.models = Models()

    @bentoml.api
    def classify(self, task: str, image: Image) -> dict[str, Any]:
        """POST /classify"""
        logits = self.models.logits([task], pixels(image)[None])[0]
        return {"task": task, "predictions": best(logits)}
