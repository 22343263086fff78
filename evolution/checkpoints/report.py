"""What an import did, as data and for people."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from evolution.checkpoints.layouts import Skipped


@dataclass(frozen=True, slots=True)
class ImportedVersion:
    """A model of the directory that is in the store now."""

    task: str
    version: int
    model: str  # which model of the directory it is
    validation_accuracy: float | None
    live: bool
    multipath: bool
    added: bool  # by this import; False if an earlier one had published it


@dataclass(frozen=True, slots=True)
class ImportReport:
    """The result of an import."""

    directory: Path  # where the system was found
    method: str
    runs: tuple[str, ...]  # saved in the store, to be continued
    versions: tuple[ImportedVersion, ...]
    components: int
    skipped: tuple[Skipped, ...]
    positions: tuple[str, ...]  # of each run: what other image sizes are resampled from

    def text(self) -> str:
        """For people: a line for each version, each run and everything that was left out."""
        lines = [f"{self.method} system in {self.directory}: {self.components} components"]
        for version in self.versions:
            accuracy = version.validation_accuracy
            marks = [
                "" if accuracy is None else f"validation {accuracy:.3f}",
                "live" if version.live else "",
                "multipath" if version.multipath else "",
                "" if version.added else "was there already",
            ]
            what = f"{version.task} v{version.version} is {version.model}"
            lines.append(", ".join([what, *filter(None, marks)]))
        lines += [f"run {name}: evolution can continue from it" for name in self.runs]
        lines += self.positions
        lines += [f"not imported: {entry.what} ({entry.why})" for entry in self.skipped]
        return "\n".join(lines)
