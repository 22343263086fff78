"""Small JSON files that carry a digest of what they say, so that no byte can change unnoticed."""

import hashlib
import json
from typing import Any


def seal(key: str, content: dict[str, Any]) -> bytes:
    """A file of this content; `check` is the SHA-256 of its key and content."""
    text = json.dumps(content, sort_keys=True, separators=(",", ":"))
    check = hashlib.sha256(f"{key}\n{text}".encode()).hexdigest()
    return f'{{"check":"{check}",{text[1:]}\n'.encode()


def unseal(key: str, data: bytes) -> dict[str, Any]:
    """The content of a file. Raises ValueError or RecursionError if it is not as it was written."""
    content = json.loads(data)
    if not isinstance(content, dict) or "check" not in content:
        raise ValueError("expected a JSON object with a check")
    del content["check"]
    if seal(key, content) != data:
        raise ValueError("its content is not what its check says")
    return content
