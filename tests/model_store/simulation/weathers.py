"""How often things go wrong in a history: each theme draws one of some weathers."""

from tests.model_store.simulation.fate import Weather

HONEST = (
    Weather(),
    Weather(kill=0.01),
    Weather(kill=0.03),
    Weather(stop=0.02),
    Weather(interrupt=0.015),
    Weather(fail=0.02),
    Weather(lose=0.03, late=0.02),
    Weather(kill=0.003, interrupt=0.004, stop=0.005, fail=0.004, lose=0.01, late=0.01),
)
ASLEEP = (Weather(stop=0.05), Weather(stop=0.1))
LOST = (
    Weather(lose=0.1),
    Weather(lose=0.2),
    Weather(lose=0.1, late=0.1),
)
LATE = (
    Weather(late=0.1),
    Weather(late=0.25),
    Weather(late=0.1, lose=0.1),
    Weather(late=0.05, interrupt=0.02),
    Weather(late=0.05, stop=0.02),
    Weather(late=0.05, kill=0.01),
)
LIES = (Weather(lie=0.1), Weather(lie=0.03, interrupt=0.005))
BLIND = (Weather(lie=0.1), Weather(lie=0.2, lie_to="P1"))
IMPATIENT = (Weather(), Weather(leave=0.03), Weather(fail=0.05), Weather(late=0.1))
REFUSED = (Weather(fail=0.03), Weather(fail=0.06), Weather(kill=0.02, fail=0.02))
STOPPED = (  # and then interrupted
    Weather(interrupt=0.04),
    Weather(interrupt=0.05, stop=0.05),
    Weather(interrupt=0.05, fail=0.02),
)
MIXED = (*HONEST, *LATE)
