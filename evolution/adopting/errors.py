"""The one error of adopting."""


class AdoptError(Exception):
    """A network that cannot be adopted: what was expected and found, what to do."""
