"""How the gateway is started from the command line."""

GREETING = "MUNET_GREETING"  # the variable by which `munet serve` asks for a word when it is ready
CANNOT_START = 2  # exit code of a gateway that cannot start
