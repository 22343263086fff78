"""What can go wrong with a load test itself; a failed request is a result, not an error.

LoadTestError
├── OptionError      the run as asked for makes no sense or is not allowed
├── GatewayError     the gateway could not be asked for its tasks
└── ExpositionError  text from /metrics is not what the Prometheus text format allows
"""


class LoadTestError(Exception):
    """Base of all errors of this package; the message is meant for the user."""


class OptionError(LoadTestError):
    """An option is out of range, malformed, or points outside this machine."""


class GatewayError(LoadTestError):
    """The gateway did not answer a question that the run depends on."""


class ExpositionError(LoadTestError):
    """A metrics page is malformed, or its counters went down."""
