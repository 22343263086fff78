"""What keeps a store in good order: gc, verification, repair, backup, usage."""

from model_store.upkeep.gc import GcReport, collect_garbage
from model_store.upkeep.usage import TaskUsage, Usage, usage_of
from model_store.upkeep.verification import Problem, verify_store

__all__ = [
    "GcReport",
    "Problem",
    "TaskUsage",
    "Usage",
    "collect_garbage",
    "usage_of",
    "verify_store",
]
