"""Times of leases that no slow machine can overrun."""

from collections.abc import Callable

from model_store.files import leases


def renew_often(change: Callable[[object, str, float], None] = setattr) -> None:
    """Leases are renewed twice a second, and taken over after ten minutes of silence."""
    change(leases, "LEASE_S", 600.0)
    change(leases, "RENEW_PART", 1200)
    change(leases, "LEASE_POLL_S", 0.05)


def run_out_soon(change: Callable[[object, str, float], None] = setattr) -> None:
    """A lease that nobody renews any more is taken over after half a second."""
    change(leases, "LEASE_S", 0.5)
    change(leases, "RENEW_PART", 12)
