"""Every citation resolves: of files and sections in code and pages, and every link of a page.

A citation is `FILE.md`, `FILE.md#anchor`, `FILE.md, Section` or `FILE.md, "Section"`, a file of
Python, or a dotted name that begins with a package of ours. A file is named from the top of the
repository, or from the folder of what cites it or one above; tests stand for what they test.
"""

import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

TOP = Path(__file__).parent.parent
PACKAGES = ("evolution", "loadtests", "model_store", "service", "vit")
FOLDERS = (*PACKAGES, "deploy", "tests")
SUFFIXES = {".py", ".md", ".yaml"}
SKIPPED = ("CHANGELOG.md", Path(__file__).name)  # tells of files that are gone; of none
FILES = sorted(
    file
    for files in (TOP.glob("*.*"), *((TOP / folder).rglob("*.*") for folder in FOLDERS))
    for file in files
    if file.suffix in SUFFIXES and file.name not in SKIPPED
)

FENCED = re.compile("```.*?```", re.DOTALL)
PAGE = re.compile(r"(?<![\w/.:-])((?:[\w.-]+/)*[\w-]+\.md)\b(#[\w-]+)?")
SECTIONS = re.compile(r'\)?,? (?=["§A-Z])')
MODULE = re.compile(r"(?<![\w/.:-])((?:\w+/)*\w+\.py)\b")
DOTTED = re.compile(rf"(?<![\w/.:-])((?:{'|'.join(PACKAGES)})(?!\.yaml)(?:\.\w+)+)")
LINK = re.compile(r"\]\(([^)\s]+)\)")
PROSE = re.compile(r'"""(.*?)"""|((?:^[ ]*#[^\n]*\n)+)|#([^\n]*)', re.DOTALL | re.MULTILINE)
MESSAGE = re.compile(r'"([^"\n]*\.md\b[^"\n]*)"')


def texts(file: Path) -> Iterator[str]:
    """What may cite: the text of pages; docstrings, comments and messages (not those of tests)."""
    source = file.read_text("utf-8")
    if file.suffix == ".md":
        yield FENCED.sub("", source)
    elif file.suffix == ".yaml":
        yield from re.findall(r".*\.md\b.*", source)
    else:
        for docstring, lines, comment in PROSE.findall(source):
            yield docstring or re.sub(r"^ *#", "", lines, flags=re.MULTILINE) or comment
        if TOP / "tests" not in file.parents:
            yield from MESSAGE.findall(source)


@cache
def places(folder: Path) -> tuple[Path, ...]:
    """Where a file that is named in a folder may lie."""
    inside = folder.relative_to(TOP)
    above = [folder, *(TOP / parent for parent in inside.parents)]
    tested = inside.parts[1:] if inside.parts[:1] == ("tests",) else ()
    return (*above, *(TOP.joinpath(*tested[: i + 1]) for i in reversed(range(len(tested)))))


def found(name: str, folder: Path) -> Path | None:
    return next((p / name for p in places(folder) if (p / name).is_file()), None)


@cache
def headings(page: Path) -> tuple[str, ...]:
    text = FENCED.sub("", page.read_text("utf-8"))
    return tuple(re.findall(r"^#+ +(.+?) *$", text, re.MULTILINE))


def anchor(heading: str) -> str:
    """As GitHub makes it of a heading."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


def wrong(text: str, folder: Path) -> Iterator[str]:
    """The citations of a text in a file of the folder that do not resolve."""
    text = " ".join(text.split())
    for cited in PAGE.finditer(text):
        page = found(cited[1], folder)
        if page and (not cited[2] or cited[2][1:] in map(anchor, headings(page))):
            yield from wrong_sections(text, cited, page)
        else:
            yield cited[0]
    for cited in MODULE.finditer(text):
        if found(cited[1], folder) is None:
            yield cited[0]
    yield from (cited[0] for cited in DOTTED.finditer(text) if not is_known(cited[1].split(".")))


def wrong_sections(text: str, cited: re.Match[str], page: Path) -> Iterator[str]:
    """Sections that are named after a page and that it does not have."""
    told = SECTIONS.match(text, cited.end())
    rest = text[told.end() :] if told else ""
    if not told or PAGE.match(rest):
        return
    quoted = re.match(r'"[^"]+"(?: and "[^"]+")*', rest)
    if quoted:
        names = [name.rstrip(",.") for name in re.findall(r'"([^"]+)"', quoted[0])]
        yield from (f'{cited[1]}, "{n}"' for n in names if n not in headings(page))
    elif "," in told[0] or rest.startswith("§"):
        if not any(re.match(rf"{re.escape(h)}(?!\w)", rest) for h in headings(page)):
            yield f"{cited[1]}, {rest[:30]}"


def is_known(name: list[str]) -> bool:
    """Whether a dotted name is a module, or a name in one; what a package exports, any file has."""
    for end in range(len(name), 0, -1):
        module, rest = TOP.joinpath(*name[:end]), name[end:]
        if (module / "__init__.py").is_file():
            exported = words(module / "__init__.py").union(rest[1:])
            return exported.issuperset(rest) and all_words(module).issuperset(rest)
        if module.with_suffix(".py").is_file():
            return words(module.with_suffix(".py")).issuperset(rest)
    return False


@cache
def words(file: Path) -> frozenset[str]:
    return frozenset(re.findall(r"\w+", file.read_text("utf-8")))


@cache
def all_words(folder: Path) -> frozenset[str]:
    return frozenset().union(*map(words, folder.glob("*.py")))


def wrong_links(page: Path) -> Iterator[str]:
    text = re.sub("`[^`]*`", "", FENCED.sub("", page.read_text("utf-8")))
    for link in LINK.findall(text):
        name, _, section = link.partition("#")
        target = page.parent / name if name else page
        if re.match(r"\w+:", link):
            continue
        if not target.exists() or (section and section not in map(anchor, headings(target))):
            yield link


def test_every_citation_resolves():
    found = {
        str(f.relative_to(TOP)): [w for t in texts(f) for w in wrong(t, f.parent)] for f in FILES
    }
    assert not {file: citations for file, citations in found.items() if citations}


def test_every_link_resolves():
    pages = [file for file in FILES if file.suffix == ".md"]
    found = {str(page.relative_to(TOP)): list(wrong_links(page)) for page in pages}
    assert not {page: links for page, links in found.items() if links}


@pytest.mark.parametrize(
    ("folder", "text"),
    [
        ("evolution", "Rules: SYSTEMS.md."),
        ("evolution/agents", "(SYSTEMS.md, Learned\n    rates)"),
        ("vit", "evolution/SYSTEMS.md#learned-rates"),
        ("model_store", 'See FORMAT.md, "Path spec" and "Manifest".'),
        (
            "tests/model_store",
            "FORMAT.md says so, README.md, CONTRIBUTING.md and vit/decode.py too.",
        ),
        ("service", "It is that of vit.decode, and model_store.ModelStore.publish."),
        ("service", "https://example.org/none/PAGE.md, Nothing"),
    ],
)
def test_what_resolves(folder, text):
    assert not list(wrong(text, TOP / folder))


@pytest.mark.parametrize(
    ("folder", "text"),
    [
        ("evolution", "Rules: spec/munet.md."),
        ("vit", "Rules: SYSTEMS.md."),
        ("evolution", "Rules: SYSTEMS.md, Learned ratios."),
        ("evolution", "Rules: SYSTEMS.md §4."),
        ("evolution", "Rules: SYSTEMS.md#learned"),
        ("model_store", '(FORMAT.md, "Path spec" and "Manifesto")'),
        ("service", "It is that of vit/decoder.py."),
        ("service", "It is that of vit.decoder."),
        ("service", "It is that of vit.decode.NoSuchName."),
        ("service", "It is that of model_store.NoSuchName."),
    ],
)
def test_what_does_not_resolve(folder, text):
    assert list(wrong(text, TOP / folder))


@pytest.mark.parametrize("link", ["NONE.md", "README.md#none", "#none", "none/"])
def test_a_link_that_does_not_resolve(link, tmp_path):
    page = tmp_path / "page.md"
    (tmp_path / "README.md").write_text("# One\n")
    page.write_text(f"# A page\n\n[One](README.md#one) [page](#a-page) [none]({link})\n")
    assert list(wrong_links(page)) == [link]
