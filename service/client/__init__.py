"""The gateway's caller on the command line: it knows the HTTP interface and nothing else."""
