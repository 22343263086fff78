"""The page that defines the format, and its examples."""

import json
import re
from pathlib import Path
from typing import Any

import model_store

PAGE = (Path(model_store.__file__).parent / "FORMAT.md").read_text("utf-8")
JSON_BLOCKS = re.findall(r"```json\n(.*?)```", PAGE, re.DOTALL)


def on_page(field: str) -> dict[str, Any]:
    """The JSON example that has a field."""
    (found,) = (json.loads(block) for block in JSON_BLOCKS if f'"{field}":' in block)
    return found
