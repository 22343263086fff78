"""OpenVINO, imported without its telemetry, which would report each start over the network.

Its own fallback for a missing package `openvino_telemetry` is a stub that sends nothing.
"""

import sys

sys.modules.setdefault("openvino_telemetry", None)  # pyright: ignore[reportArgumentType]

import openvino as ov  # noqa: E402
import openvino.opset15 as op  # noqa: E402

__all__ = ["op", "ov"]
