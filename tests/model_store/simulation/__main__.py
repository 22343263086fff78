"""Plays histories: `python -m tests.model_store.simulation --histories 10000`."""

from __future__ import annotations

import argparse
import logging
import os
import sys
import time
from collections.abc import Iterator
from typing import Any


def main() -> None:
    """Prints each history that ends with something lost; exit code 1 if there is one."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--histories", type=int, default=10_000)
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    parser.add_argument("--theme", help="all of this theme, instead of the one a seed draws")
    parser.add_argument("--code", help="a folder with another version of model_store")
    parser.add_argument("--trace", action="store_true", help="print all that happened")
    parser.add_argument("--script", action="store_true", help="print each loss as a short script")
    parser.add_argument("--stop", action="store_true", help="end at the first loss")
    parser.add_argument("--without", help="take this protective step out, or each in turn: all")
    parser.add_argument("--known", action="store_true", help="of these, only what is known to lose")
    options = parser.parse_args()
    if os.environ.get("PYTHONHASHSEED") != "0":  # or the order in a set is another each time
        os.environ["PYTHONHASHSEED"] = "0"
        os.execv(sys.executable, [sys.executable, "-m", __spec__.name, *sys.argv[1:]])
    if options.code:
        sys.path.insert(0, options.code)
    logging.disable(logging.CRITICAL)
    raise SystemExit(_without(options) if options.without else _play(options))


def _losses(options: argparse.Namespace) -> Iterator[tuple[int, Any]]:
    from tests.model_store.simulation.histories import of_seed

    for seed in range(options.first, options.first + options.histories):
        found = of_seed(seed, options.theme)
        if found.wrong:
            yield seed, found


def _play(options: argparse.Namespace) -> int:
    started, losses = time.monotonic(), 0
    for seed, found in _losses(options):
        losses += 1
        _print(seed, found, options)
        if options.stop:
            break
    seconds = time.monotonic() - started
    sys.stdout.write(f"{options.histories} histories, {losses} with a loss, {seconds:.0f} s\n")
    return 1 if losses else 0


def _print(seed: int, found: Any, options: argparse.Namespace) -> None:
    from tests.model_store.simulation.themes import plan_of

    theme = options.theme or plan_of(seed)[0]
    lines = [f"seed {seed}: {theme} on a {found.plan.place}:"]
    lines += [f"  {text}" for text in found.wrong[:5]]
    lines += [f"    {op}" for op in found.operations]
    if options.trace:
        lines += found.trace
    if options.script:
        from tests.model_store.simulation.shrinking import script_of

        lines += [script_of(found)]
    sys.stdout.write("\n".join(lines) + "\n")
    sys.stdout.flush()


def _without(options: argparse.Namespace) -> int:
    """Takes protective steps out; 1 if no loss is found without one of them."""
    from tests.model_store.simulation.mutants import MUTANTS, without

    missed = 0
    for step in MUTANTS if options.without == "all" else [options.without]:
        if options.known:
            if (seed := MUTANTS[step].seed) is None:
                continue
            options.first, options.histories = seed, 1
        with without(step):
            loss = next(_losses(options), None)
        if loss is None:
            missed = 1
            sys.stdout.write(f"without {step}: nothing in {options.histories} histories\n")
        else:
            sys.stdout.write(f"without {step}:\n")
            _print(*loss, options)
    return missed


if __name__ == "__main__":
    main()
