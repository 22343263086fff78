"""A line in the log for each call that only admins may make: who made it, and its status.

Calls without a known token are logged once a second, with their number: so they cannot fill the
log.
"""

from __future__ import annotations

import logging
import re
import threading
import time

from service.request import Exchange

logger = logging.getLogger(__name__)
SHOWN_CHARACTERS = 200
UNAUTHENTICATED = 401
EVERY_S = 1.0  # between lines of calls without a known token
_CALLS = re.compile(
    r"/admin/.*|/v2/repository/models/.*|/inference\.GRPCInferenceService/RepositoryModel(Unl|L)oad",
    re.DOTALL,
)
_lock = threading.Lock()
_unknown, _told = 0, 0.0  # calls that no line tells of yet; when one was written


def is_call(path: str) -> bool:
    """Whether it is that of an admin call, over HTTP or gRPC."""
    return _CALLS.fullmatch(path) is not None


def note(exchange: Exchange) -> None:
    """Logs an admin call that has ended."""
    known = exchange.token is not None and exchange.status != UNAUTHENTICATED
    count = 1 if known else _of_nobody()
    if count:
        logger.info(
            "event=admin_call method=%s path=%r status=%d token=%s client=%s request_id=%s"
            " calls=%d",
            exchange.method[:20],
            exchange.path[:SHOWN_CHARACTERS],
            exchange.status,
            exchange.token,
            exchange.client,
            exchange.request_id,
            count,
        )


def _of_nobody() -> int:
    """Counts a call without a known token; how many a line now reports, 0 for no line."""
    global _unknown, _told
    with _lock:
        _unknown += 1
        now = time.monotonic()
        if now - _told < EVERY_S:
            return 0
        count, _unknown, _told = _unknown, 0, now
        return count
