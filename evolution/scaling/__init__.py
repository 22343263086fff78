"""How far agents that share a store scale past this machine: measured costs, then a simulation."""
