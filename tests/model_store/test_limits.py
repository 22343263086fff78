"""What a process may take of the machine, read from made-up trees of control groups."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from model_store.files.limits import Machine

MIB = 2**20
NONE_V1 = 9223372036854771712
MEMINFO = "MemTotal: 8388608 kB\nMemFree: 100 kB\nMemAvailable: 4194304 kB\nHugePages_Total: 0\n"
V1_MOUNTS = (
    "20 1 0:2 / /proc rw - proc proc rw\n"
    "30 1 0:30 {top} /sys/fs/cgroup/memory rw,nosuid shared:9 - cgroup cgroup rw,memory\n"
    "31 1 0:31 {top} /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct\n"
    "32 1 0:32 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n"
)
V2_MOUNTS = "30 1 0:30 {top} /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw,nsdelegate\n"


class Tree:
    """A made-up root."""

    def __init__(self, root: Path, mounts: str, own: str, top: str = "/") -> None:
        self.root = root
        self.write("proc/meminfo", MEMINFO)
        self.write("proc/self/mountinfo", mounts.format(top=top))
        self.write("proc/self/cgroup", own)

    def write(self, path: str, text: object) -> None:
        file = self.root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(f"{text}\n")

    def v1(self, group: str, limit: int, used: int = 0, stat: str = "") -> None:
        folder = f"sys/fs/cgroup/memory/{group}".rstrip("/")
        self.write(f"{folder}/memory.limit_in_bytes", limit)
        self.write(f"{folder}/memory.usage_in_bytes", used)
        self.write(f"{folder}/memory.stat", stat)

    def v2(self, group: str, limit: object, used: int = 0, stat: str = "", **more: object) -> None:
        folder = f"sys/fs/cgroup/{group}".rstrip("/")
        self.write(f"{folder}/memory.max", limit)
        self.write(f"{folder}/memory.current", used)
        self.write(f"{folder}/memory.stat", stat)
        for name, value in more.items():
            self.write(f"{folder}/{name.replace('_', '.')}", value)

    @property
    def machine(self) -> Machine:
        return Machine(self.root)


def v1(root: Path, own: str, top: str = "/") -> Tree:
    return Tree(root, V1_MOUNTS, f"4:memory:{own}\n2:cpu,cpuacct:{own}\n0::/elsewhere", top)


def v2(root: Path, own: str, top: str = "/") -> Tree:
    return Tree(root, V2_MOUNTS, f"0::{own}", top)


def test_without_groups_it_is_the_machine(tmp_path: Path) -> None:
    tree = Tree(tmp_path, "", "")
    assert tree.machine.memory().bytes == 8192 * MIB
    assert tree.machine.free() == 4096 * MIB
    assert tree.machine.cores() == len(os.sched_getaffinity(0))


def test_without_proc_it_is_what_the_system_says(tmp_path: Path) -> None:
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    assert Machine(tmp_path / "nowhere").memory().bytes == total
    assert Machine(tmp_path / "nowhere").cores() >= 1


def test_the_group_of_version_2_in_a_container(tmp_path: Path) -> None:
    """Which sees its own group as the top of all."""
    tree = v2(tmp_path, "/")
    tree.v2("", 1024 * MIB, 300 * MIB)
    limit = tree.machine.memory()
    assert (limit.bytes, limit.free) == (1024 * MIB, 724 * MIB)
    assert limit.source == str(tmp_path / "sys/fs/cgroup/memory.max")


def test_a_unit_of_systemd_has_its_limit_on_the_way_up(tmp_path: Path) -> None:
    tree = v2(tmp_path, "/system.slice/munet.service/worker")
    tree.v2("system.slice/munet.service/worker", "max")
    tree.v2("system.slice/munet.service", 900 * MIB, 100 * MIB)
    tree.v2("system.slice", 4000 * MIB, 3800 * MIB)
    tree.v2("", "max")
    assert tree.machine.memory().bytes == 900 * MIB
    assert tree.machine.free() == 200 * MIB  # others in the slice have taken the rest


def test_beyond_high_processes_hardly_run(tmp_path: Path) -> None:
    tree = v2(tmp_path, "/a")
    tree.v2("a", 1024 * MIB, 100 * MIB, memory_high=512 * MIB)
    assert tree.machine.memory().bytes == 512 * MIB
    assert tree.machine.free() == 412 * MIB


def test_a_unit_of_systemd_under_version_1(tmp_path: Path) -> None:
    tree = v1(tmp_path, "/system.slice/munet.service")
    tree.v1("system.slice/munet.service", NONE_V1)
    tree.v1("system.slice", 700 * MIB, 100 * MIB)
    tree.v1("", NONE_V1)
    assert tree.machine.memory().bytes == 700 * MIB
    assert tree.machine.free() == 600 * MIB


@pytest.mark.parametrize("own", ["/docker/abc", "/docker/abc/inner"])
def test_a_container_under_version_1_sees_the_machines_paths(tmp_path: Path, own: str) -> None:
    tree = v1(tmp_path, own, top="/docker/abc")
    tree.v1(own.removeprefix("/docker/abc").lstrip("/"), NONE_V1)
    tree.v1("", 600 * MIB)
    assert tree.machine.memory().bytes == 600 * MIB


def test_a_limit_around_what_a_container_sees(tmp_path: Path) -> None:
    """Kubernetes limits a pod, in whose group that of the container lies."""
    tree = v1(tmp_path, "/kubepods/pod/abc", top="/kubepods/pod/abc")
    tree.v1("", NONE_V1, 50 * MIB, f"cache 0\nhierarchical_memory_limit {512 * MIB}")
    assert tree.machine.memory().bytes == 512 * MIB
    assert tree.machine.free() == 462 * MIB


@pytest.mark.parametrize("own", ["/../other", "/../../a/b", "/gone"])
def test_a_group_that_is_not_visible(tmp_path: Path, own: str) -> None:
    tree = v2(tmp_path, own)
    tree.v2("", 800 * MIB)
    assert tree.machine.memory().bytes == 800 * MIB


def test_pages_of_files_are_free_but_those_that_processes_run_from(tmp_path: Path) -> None:
    stat = f"inactive_file {300 * MIB}\nactive_file {200 * MIB}\nfile_mapped {100 * MIB}\n"
    tree = v2(tmp_path, "/")
    tree.v2("", 1000 * MIB, 900 * MIB, stat + f"slab_reclaimable {50 * MIB}")
    assert tree.machine.free() == 550 * MIB
    stat = stat.replace("file_mapped", "mapped_file")
    own = "\n".join(f"total_{line}" for line in stat.split("\n") if line)
    old = v1(tmp_path / "v1", "/")
    old.v1("", 1000 * MIB, 900 * MIB, own)
    assert old.machine.free() == 500 * MIB


def test_free_is_never_less_than_nothing(tmp_path: Path) -> None:
    tree = v2(tmp_path, "/")
    tree.v2("", 100 * MIB, 200 * MIB)
    assert tree.machine.free() == 0


@given(
    st.lists(st.none() | st.integers(1, 8000), min_size=1, max_size=5),
    st.booleans(),
)
def test_the_smallest_limit_on_the_way_up_counts(
    tmp_path_factory: pytest.TempPathFactory, limits: list[int | None], old: bool
) -> None:
    names = [f"g{level}" for level in range(len(limits))]
    make = v1 if old else v2
    tree = make(tmp_path_factory.mktemp("root"), "/" + "/".join(names))
    for level, limit in enumerate(limits):
        group = "/".join(names[: level + 1])
        if old:
            tree.v1(group, NONE_V1 if limit is None else limit * MIB)
        else:
            tree.v2(group, "max" if limit is None else limit * MIB)
    expected = min([8192, *(limit for limit in limits if limit is not None)])
    assert tree.machine.memory().bytes == expected * MIB


@pytest.mark.parametrize(
    ("quotas", "cores"),
    [
        (["150000 100000"], 2),
        (["max 100000"], 8),
        (["10000 100000"], 1),
        (["max 100000", "300000 100000", "200000 50000"], 3),
        (["nonsense"], 8),
    ],
)
@pytest.mark.parametrize("old", [False, True])
def test_processors_are_the_quota_rounded_up(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    quotas: list[str],
    cores: int,
    old: bool,
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)))
    names = [f"g{level}" for level in range(len(quotas))]
    tree = (v1 if old else v2)(tmp_path, "/" + "/".join(names))
    for level, text in enumerate(quotas):
        group = "/".join(names[: level + 1])
        if old:
            quota, _, period = text.replace("max", "-1").partition(" ")
            tree.write(f"sys/fs/cgroup/cpu,cpuacct/{group}/cpu.cfs_quota_us", quota)
            tree.write(f"sys/fs/cgroup/cpu,cpuacct/{group}/cpu.cfs_period_us", period)
        else:
            tree.write(f"sys/fs/cgroup/{group}/cpu.max", text)
    assert tree.machine.cores() == cores


def test_an_odd_name_of_a_mount(tmp_path: Path) -> None:
    mounts = "30 1 0:30 / /my\\040groups rw - cgroup2 cgroup2 rw\n"
    tree = Tree(tmp_path, mounts, "0::/a:b")
    tree.write("my groups/a:b/memory.max", 300 * MIB)
    tree.write("my groups/a:b/memory.current", 0)
    tree.write("my groups/a:b/memory.stat", "")
    assert tree.machine.memory().bytes == 300 * MIB
