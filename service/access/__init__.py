"""Who may do what: tokens with scopes and rates, and what counts as a request of this machine."""

from service.access.authentication import Access
from service.access.grants import ANONYMOUS, LOCAL, NOTHING, Grants

__all__ = ["ANONYMOUS", "LOCAL", "NOTHING", "Access", "Grants"]
