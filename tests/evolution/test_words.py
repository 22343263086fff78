"""The package speaks in usual words: some that make sentences hard to read do not occur."""

import re
from pathlib import Path

import evolution

TOP = Path(evolution.__file__).parent
HARD = re.compile(r"\b(anew|whatever|whoever|beside|so many|so long as)\b", re.IGNORECASE)


def test_hard_words_do_not_occur():
    files = [file for file in TOP.rglob("*") if file.suffix in (".py", ".md")]
    assert len(files) > 100
    found = {
        f"{file.relative_to(TOP)}:{number}": line.strip()
        for file in files
        for number, line in enumerate(file.read_text("utf-8").splitlines(), 1)
        if HARD.search(line)
    }
    assert not found
