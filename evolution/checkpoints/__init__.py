"""Reads the published checkpoints of the μNet systems into the store."""

from evolution.checkpoints.files import CheckpointError
from evolution.checkpoints.importing import import_state
from evolution.checkpoints.layouts import Skipped
from evolution.checkpoints.report import ImportedVersion, ImportReport

__all__ = ["CheckpointError", "ImportReport", "ImportedVersion", "Skipped", "import_state"]
