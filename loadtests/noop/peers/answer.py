"""What every no-op answers: as large as the gateway's answer with five classes."""

from __future__ import annotations

from typing import Any

ANSWER: dict[str, Any] = {
    "task": "noop",
    "version": 1,
    "predictions": [{"label": f"class {i}", "index": i, "probability": 0.1} for i in range(5)],
    "timing_ms": {"decode": 0.012, "queue": 0.034, "execute": 0.056, "total": 0.345},
}
