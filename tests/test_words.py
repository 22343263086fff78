"""The project speaks in usual words: some that make sentences hard to read do not occur."""

import re
from pathlib import Path

TOP = Path(__file__).parent.parent
HARD = re.compile(r"\b(anew|whatever|whoever|beside|so many|so long as)\b", re.IGNORECASE)
KINDS = (".cfg", ".json", ".md", ".py", ".yaml", ".yml")
FOLDERS = ("deploy", "evolution", "loadtests", "model_store", "service", "tests", "vit")


def files(*names: str) -> list[Path]:
    """The files of folders, and the files themselves; without results, which stay as they were."""
    found = [file for name in names for file in (TOP / name).rglob("*") if file.suffix in KINDS]
    single = [TOP / name for name in names if (TOP / name).is_file()]
    here = Path(__file__)  # which names them
    return [file for file in [*found, *single] if "results" not in file.parts and file != here]


def hard_words(*names: str) -> dict[str, str]:
    """File and line -> the line, where a hard word is."""
    return {
        f"{file.relative_to(TOP)}:{number}": line.strip()
        for file in files(*names)
        for number, line in enumerate(file.read_text("utf-8").splitlines(), 1)
        if HARD.search(line)
    }


def test_hard_words_do_not_occur():
    pages = [page.name for page in TOP.glob("*.*") if page.suffix in KINDS]
    names = [*FOLDERS, *pages, "Makefile"]
    assert len(files(*names)) > 400
    assert not hard_words(*names)


def test_a_hard_word_is_found():
    for text in ("Whatever it is", "so many bytes", "begun anew"):
        assert HARD.search(text)
    for text in ("besides", "next to", "so much"):
        assert not HARD.search(text)
