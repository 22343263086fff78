"""A clock for the time that a growth may take."""


class Clock:
    """Time that passes only where a test says so, by a step at each look."""

    def __init__(self, step: float = 0.0) -> None:
        self.now, self.step = 0.0, step

    def __call__(self) -> float:
        self.now += self.step
        return self.now
