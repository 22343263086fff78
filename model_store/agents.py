"""Who is an agent at the moment: at most one process, anywhere."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from model_store.errors import AgentBusy
from model_store.leases import Held, renewed
from model_store.names import quote, require_name
from model_store.storage import Storage, Taken


def _purpose(agent: str) -> str:
    return f"agents/{quote(require_name('agent', agent))}"


@contextmanager
def hold(storage: Storage, agent: str) -> Iterator[Held]:
    """See `ModelStore.hold`."""
    with ExitStack() as stack:
        try:
            lease = stack.enter_context(storage.alone(_purpose(agent), wait=False))
        except Taken as taken:
            raise AgentBusy(
                f"agent {agent}: held by another process that lives ({taken}), expected by"
                f" none; end that one, or let it go on ({storage.url})"
            ) from None
        yield stack.enter_context(renewed(lease))


def holder(storage: Storage, agent: str) -> str | None:
    """See `ModelStore.holder`."""
    return storage.holder(_purpose(agent))
