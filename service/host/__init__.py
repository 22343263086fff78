"""How the gateway is started from the command line."""

GREETING = "MUNET_GREETING"  # the variable by which `munet serve` asks for a word when it is ready
