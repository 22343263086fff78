"""Plays histories: `python -m tests.model_store.simulation --histories 10000`."""

from __future__ import annotations

import argparse
import logging
import sys
import time
from contextlib import ExitStack
from typing import Any


def main() -> None:
    """Prints each history that ends with something lost; exit code 1 if there is one."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--histories", type=int, default=10_000)
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    parser.add_argument("--code", help="a folder with another version of model_store")
    parser.add_argument("--trace", action="store_true", help="print all that happened")
    parser.add_argument("--stop", action="store_true", help="end at the first loss")
    parser.add_argument("--without", help="take this protective step out, or each in turn: all")
    options = parser.parse_args()
    with ExitStack() as stack:
        play(options, stack)


def play(options: argparse.Namespace, stack: ExitStack) -> None:
    """Plays the histories that are asked for."""
    if options.code:
        sys.path.insert(0, options.code)
    from tests.model_store.simulation.histories import History

    logging.disable(logging.CRITICAL)
    if options.without:
        from tests.model_store.simulation.mutants import MUTANTS, without

        if options.without == "all":
            missed = [step for step in MUTANTS if not _finds(step, without, History, options)]
            raise SystemExit(1 if missed else 0)
        stack.enter_context(without(options.without))
    started, found = time.monotonic(), 0
    for seed in range(options.first, options.first + options.histories):
        loss = History(seed).play()
        if loss is None:
            continue
        found += 1
        lines = [f"seed {seed} on a {loss.where}:", *(f"  {text}" for text in loss.wrong[:5])]
        lines += [f"    {op}" for op in loss.operations]
        if options.trace:
            lines += loss.trace
        sys.stdout.write("\n".join(lines) + "\n")
        if options.stop:
            break
    seconds = time.monotonic() - started
    sys.stdout.write(f"{options.histories} histories, {found} with a loss, {seconds:.0f} s\n")
    raise SystemExit(1 if found else 0)


def _finds(step: str, without: Any, history: Any, options: argparse.Namespace) -> bool:
    """Whether a loss is found without a step; prints after how many histories."""
    for seed in range(options.first, options.first + options.histories):
        with without(step):
            loss = history(seed).play()
        if loss is not None:
            sys.stdout.write(f"without {step}: seed {seed}, {loss.where}: {loss.wrong[0][:150]}\n")
            return True
    sys.stdout.write(f"without {step}: nothing in {options.histories} histories\n")
    return False


if __name__ == "__main__":
    main()
