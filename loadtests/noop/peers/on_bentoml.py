"""The no-op as its authors would write it with BentoML."""

from __future__ import annotations

from typing import Any

import bentoml
from answer import ANSWER


@bentoml.service
class Noop:
    """One API that takes bytes."""

    @bentoml.api(route="/noop")
    async def noop(self, image: bytes, /) -> dict[str, Any]:
        """POST /noop"""
        return ANSWER
