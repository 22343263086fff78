"""Work that never ends, for processes that a signal has to end."""

import os
from typing import Any

import jax
import jax.numpy as jnp

BUSY = "busy"


def busy() -> None:
    os.write(1, f"{BUSY}\n".encode())


def computes(*_: Any) -> Any:
    """In a program of XLA that does not end."""

    def step(state: tuple[Any, Any]) -> tuple[Any, Any]:
        return state[1] & 1, state[1] * jnp.uint32(1664525) + jnp.uint32(1013904223)

    endless = jax.jit(lambda x: jax.lax.while_loop(lambda state: state[0] < 2, step, (x, x)))
    start = jnp.uint32(0)
    endless.lower(start).compile()
    busy()
    return int(endless(start)[0])


def reads(*_: Any) -> Any:
    """As a file of a server that does not answer."""
    reading, _writing = os.pipe()
    busy()
    os.read(reading, 1)


def read_to(output: int, text: str | None) -> str:
    """What comes, up to a text or to the end."""
    printed = b""
    while text is None or text.encode() not in printed:
        try:
            data = os.read(output, 4096)
        except OSError:  # of a terminal that nobody has open any more
            break
        if not data:
            break
        printed += data
    return printed.decode()
