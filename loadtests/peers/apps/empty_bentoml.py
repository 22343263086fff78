"""A BentoML service that does nothing: what the host itself takes of memory and of a start."""

from __future__ import annotations

import bentoml


@bentoml.service
class Empty:
    """One API without a model."""

    @bentoml.api
    def answer(self) -> str:
        """POST /answer"""
        return "nothing"
