"""Whether the package of a back end is installed; asked before anything of it is imported."""

from __future__ import annotations

from importlib.util import find_spec

from service.errors import SettingsError


def require(name: str) -> None:
    """Raises SettingsError for a back end whose package is not installed."""
    if name == "openvino" and find_spec("openvino") is None:
        raise SettingsError(
            "starting the gateway: MUNET_BACKEND=openvino needs the package openvino, which is "
            "not installed: pip install openvino, or set MUNET_BACKEND=jax"
        )
