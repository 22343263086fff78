"""How the gateway's memory is divided, and how much of it is really left.

    limit = the gateway itself + compiled programs + bodies + decoding + components

The limit is that of the machine, or the smallest of a control group around this process; workers
have equal parts of it. What the gateway itself takes is measured. Each part has a least size; of
bodies, decoding and components, those that the settings leave open share the rest. What programs
take is known only when they are made, and others on this machine may grow too: `Headroom` says what
is really left, and components go before the kernel ends a process.

With a limit that is accepted at the start, every ordinary picture is answered: a JPEG or a PNG with
as many pixels as a phone's, or with MUNET_MAX_PIXELS if that is less. Without room for one, the
start is refused with the sum. Only a MUNET_DECODE_MEMORY that is set may be less.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from model_store.files.limits import Limit, Machine
from service.compute.decode_memory import give_back_free_memory
from service.errors import SettingsError
from service.settings import Bytes, Settings

PID = "MUNET_MAIN_PID"  # the variable by which a worker knows its main process
MIB = 2**20
UPLOADS, MOST_UPLOADS = 1 / 8, 512 * MIB  # shares are of the rest
# At least one picture of the default MUNET_MAX_PIXELS, and programs of a network of middling size,
DECODING, ENOUGH_DECODING = 1 / 8, 512 * MIB
PROGRAMS, ENOUGH_PROGRAMS = 1 / 8, 256 * MIB
MOST = 1 / 4  # but no more than this of the rest for each of these two.
LEAST_COMPONENTS = 64 * MIB
# What an ordinary picture takes (`service/images.py`): 12 megapixels, for an input of 384 pixels.
ORDINARY_PIXELS, PIXEL_BYTES, PICTURE_BYTES = 4032 * 3024, 4.25, 32 * MIB
# Of a ViT-Ti: each program once, and for each compute thread what it runs them with, copies of
# those among it that another thread runs just then.
LEAST_PROGRAMS, THREAD_PROGRAMS = 80 * MIB, 32 * MIB
# Of the gateway itself with OpenVINO, before it serves anything: in each worker, and once.
LEAST_WORKER, LEAST_MAIN = 132 * MIB, 72 * MIB


def own_memory(environment: Mapping[str, str] = os.environ) -> tuple[int, int]:
    """Bytes that this process takes, and its main process, if it has one."""
    main = environment.get(PID, "")
    return _taken("self"), _taken(main) if main and main != str(os.getpid()) else 0


def _taken(process: str) -> int:
    """Bytes of a process; what it shares with others is divided among them."""
    folder = Path("/proc") / process
    with suppress(OSError, ValueError):
        for line in (folder / "smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1]) * 1024
    with suppress(OSError, ValueError):
        return int((folder / "statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    return 0


def require_enough(settings: Settings) -> None:
    """Raises SettingsError, with the sum, where a gateway with these settings has no room.

    Checked before the start, so that the kernel does not end the gateway before it can say so.
    """
    divided(settings, Machine().memory(), LEAST_WORKER + LEAST_MAIN // settings.workers)


def ordinary_picture(max_pixels: int) -> int:
    """Bytes that decoding the largest ordinary picture takes."""
    pixels = PIXEL_BYTES * min(max_pixels, ORDINARY_PIXELS)
    return PICTURE_BYTES + math.ceil(pixels / MIB) * MIB


def divided(settings: Settings, limit: Limit, base: int) -> Settings:
    """The settings with every share of the memory filled in, for one worker.

    `base` are the bytes that the gateway itself takes, by worker. Raises SettingsError, with the
    sum, where the limit is too small.
    """
    all_bytes = limit.bytes // settings.workers
    least = {
        "upload_memory": settings.max_body_bytes,
        "decode_memory": ordinary_picture(settings.max_pixels),
        "memory_budget": LEAST_COMPONENTS,
    }
    found = {name: getattr(settings, name) or size for name, size in least.items()}
    programs = LEAST_PROGRAMS + THREAD_PROGRAMS * settings.compute_threads
    left = all_bytes - base - programs - sum(found.values())
    if left < 0:
        raise _too_little(settings, limit, base, programs, found)
    more_programs = min(max(ENOUGH_PROGRAMS, PROGRAMS * left), MOST * left)
    more = {
        "upload_memory": min(max(0, MOST_UPLOADS - least["upload_memory"]), UPLOADS * left),
        "decode_memory": min(max(ENOUGH_DECODING, DECODING * left), MOST * left),
    }
    given = [name for name in least if getattr(settings, name)]
    more = {name: 0 if name in given else int(size) for name, size in more.items()}
    if "memory_budget" not in given:
        more["memory_budget"] = int(left - sum(more.values()) - more_programs)
    sizes = {name: Bytes(size + more.get(name, 0)) for name, size in found.items()}
    return replace(settings, **sizes)


def _too_little(
    settings: Settings, limit: Limit, base: int, programs: int, parts: Mapping[str, int]
) -> SettingsError:
    least = base + programs + sum(parts.values())  # told in whole MiB that are enough
    each = f" for each of {settings.workers} workers" if settings.workers > 1 else ""
    uploads, decoding, components = (
        f"{_mib(size)} MUNET_{name.upper()}" for name, size in parts.items()
    )
    source = limit.source if len(limit.source) < 70 else f"…{limit.source[-70:]}"
    return SettingsError(
        f"starting the gateway: expected at least {math.ceil(least / MIB)} MiB of "
        f"memory{each}:\n"
        f"  {_mib(base)} for itself + {_mib(programs)} for programs (MUNET_COMPUTE_THREADS is "
        f"{settings.compute_threads})\n"
        f"  + {uploads} + {decoding} + {components},\n"
        f"found {_mib(limit.bytes // settings.workers)} by {source};\n"
        "raise that limit, or lower these settings"
    )


def _mib(size: int) -> str:
    return f"{size / MIB:.0f} MiB"


class Headroom:
    """What is really left for components; for any thread."""

    def __init__(self, machine: Machine, workers: int, promised: Callable[[], int]) -> None:
        """`promised` are bytes that bodies and decoding may still take."""
        self._machine = machine
        self._workers = workers
        self._promised = promised

    def left(self) -> int:
        """Bytes, without those that are promised; below 0 where others have taken these."""
        return self._machine.free() // self._workers - self._promised()

    def fits(self, needed: int) -> bool:
        """Whether `needed` bytes are left, counting what the C library keeps for later."""
        if self.left() >= needed:
            return True
        give_back_free_memory()
        return self.left() >= needed
