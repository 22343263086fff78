"""What this process may take of the machine: memory and processors, within its control groups.

A container, a unit of systemd and a batch system each limit a control group of Linux, of version 1
or 2. Groups lie in one another: on the way up, the smallest limit counts.
"""

import math
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

CHUNK = 2**16
UNLIMITED = 2**60  # bytes; version 1 writes a number about this large where there is no limit
_ESCAPED = re.compile(r"\\([0-7]{3})")


@dataclass(frozen=True, slots=True)
class Limit:
    """Bytes of memory that all processes of a group may take together."""

    bytes: int
    free: int  # bytes that are left; what the kernel can take back at once counts as free
    source: str  # the file that says so


class Machine:
    """The machine as this process sees it; everything is read when it is asked for, but where the
    folders of its groups are: that is looked up again when it is in other groups.
    """

    def __init__(self, root: Path = Path("/")) -> None:
        """`root` holds `proc` and the places that it names."""
        self._root = root
        self._folders: tuple[str, dict[str, list[Path]]] = "", {}  # of these groups, by controller

    def memory(self) -> Limit:
        """The limit with the fewest bytes, of the groups and of the machine itself."""
        return min(self._limits(), key=lambda limit: limit.bytes)

    def free(self) -> int:
        """Bytes of memory until the kernel has to end a process of some group, at least 0."""
        return max(0, min(limit.free for limit in self._limits()))

    def cores(self) -> int:
        """Processors: those this process may run on, or its quota of time, rounded up."""
        quotas = [quota for folder in self._groups("cpu") for quota in _quotas(folder)]
        return max(1, math.ceil(min([_affinity(), *quotas])))

    def _limits(self) -> list[Limit]:
        groups = [limit for folder in self._groups("memory") for limit in _limits_of(folder)]
        return [self._physical(), *groups]

    def _physical(self) -> Limit:
        file = self._root / "proc/meminfo"
        with suppress(OSError, ValueError, KeyError, IndexError):
            kib = {name.rstrip(":"): int(value) for name, value in _table(file).items()}
            return Limit(kib["MemTotal"] * 1024, kib["MemAvailable"] * 1024, str(file))
        total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        return Limit(total, total, "the machine")

    def _groups(self, controller: str) -> list[Path]:
        """The folders of this process' group and of those around it, as far as they are visible."""
        try:
            groups = _text(self._root / "proc/self/cgroup")
            known, folders = self._folders
            if groups != known:
                folders = {}
            if controller not in folders:
                folders[controller] = list(self._found(controller, groups))
                self._folders = groups, folders
            return folders[controller]
        except OSError:  # no Linux
            return []

    def _found(self, controller: str, groups: str) -> Iterator[Path]:
        mounts = _text(self._root / "proc/self/mountinfo").splitlines()
        paths = {}
        for _, controllers, path in (line.split(":", 2) for line in groups.splitlines() if line):
            paths |= dict.fromkeys(controllers.split(","), path)
        for line in filter(None, mounts):
            mount, _, kind = line.partition(" - ")
            name = _hierarchy(kind, controller)
            if name in paths:
                top, place = (_plain(field) for field in mount.split(" ")[3:5])
                yield from self._upwards(self._root / place.lstrip("/"), top, paths[name])

    @staticmethod
    def _upwards(place: Path, top: str, path: str) -> Iterator[Path]:
        """From the folder of a group to that of the hierarchy, of which `top` is mounted."""
        inner = os.path.relpath(path, top)  # a container may see its own group as the top
        folder = place if inner.startswith("..") or ".." in path.split("/") else place / inner
        while folder != place:
            yield folder
            folder = folder.parent
        yield place


def _hierarchy(kind: str, controller: str) -> str | None:
    """The name, in /proc/self/cgroup, of a mounted hierarchy that has the controller."""
    system, _, options = kind.split(" ", 2)
    if system == "cgroup2":
        return ""
    return controller if system == "cgroup" and controller in options.split(",") else None


def _plain(field: str) -> str:
    return _ESCAPED.sub(lambda found: chr(int(found[1], 8)), field)


def _limits_of(folder: Path) -> Iterator[Limit]:
    """Those of one group: in version 2 also `high`, beyond which its processes hardly run."""
    for name, used in (
        ("memory.max", "memory.current"),
        ("memory.high", "memory.current"),
        ("memory.limit_in_bytes", "memory.usage_in_bytes"),
    ):
        with suppress(OSError, ValueError):  # no such file, or "max"
            limit = int(_text(folder / name))
            if limit < UNLIMITED:
                yield _limit(folder, limit, used, str(folder / name))
    with suppress(OSError, ValueError, KeyError):  # version 1 tells of invisible groups around it
        limit = int(_table(folder / "memory.stat")["hierarchical_memory_limit"])
        if limit < UNLIMITED:
            source = f"{folder / 'memory.stat'}: hierarchical_memory_limit"
            yield _limit(folder, limit, "memory.usage_in_bytes", source)


def _limit(folder: Path, limit: int, used: str, source: str) -> Limit:
    """Pages of files count as free, but those that processes run from."""
    taken = int(_text(folder / used))
    table = _table(folder / "memory.stat")

    def stat(*names: str) -> int:
        return next((int(table[name]) for name in names if name in table), 0)

    files = sum(stat(f"total_{kind}", kind) for kind in ("inactive_file", "active_file"))
    mapped = stat("total_mapped_file", "file_mapped")
    back = max(0, files - mapped) + stat("slab_reclaimable")
    return Limit(limit, limit - max(0, taken - back), source)


def _quotas(folder: Path) -> Iterator[float]:
    """Processors' worth of time that the processes of one group may take."""
    with suppress(OSError, ValueError):
        quota, period = (folder / "cpu.max").read_text().split()
        yield int(quota) / int(period)
    with suppress(OSError, ValueError):
        quota = int((folder / "cpu.cfs_quota_us").read_text())
        if quota > 0:
            yield quota / int((folder / "cpu.cfs_period_us").read_text())


def _table(file: Path) -> Mapping[str, str]:
    """Lines of a name and a value."""
    lines = (line.split() for line in _text(file).splitlines())
    return {line[0]: line[1] for line in lines if len(line) > 1}


def _text(file: Path) -> str:
    """Of a small file; without the calls that Python's own files make: a gateway looks often."""
    opened = os.open(file, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return b"".join(iter(lambda: os.read(opened, CHUNK), b"")).decode()
    finally:
        os.close(opened)


def _affinity() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


# -- sizes as people write them in settings

_SIZE = re.compile(r"([0-9]{1,18}(?:\.[0-9]{1,9})?) ?(?:([KMGT])(I?))?B?", re.ASCII)
SIZE = "a number of bytes, such as 512MiB or 2GB"


def parse_size(text: str) -> int:
    """Bytes: a number, alone or with a unit from KB (1000) or KiB (1024) to TB or TiB.

    Raises ValueError.
    """
    found = _SIZE.fullmatch(text.strip().upper())
    if found is None:
        raise ValueError(f"expected {SIZE}, found {text!r}")
    number, prefix, binary = found.groups()
    power = 0 if prefix is None else 1 + "KMGT".index(prefix)
    return int(float(number) * (1024 if binary else 1000) ** power)
