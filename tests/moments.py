"""Moments that do not depend on how fast a machine is: after some work, not after some time."""

import hashlib

MEBIBYTE = bytes(2**20)


def work(mebibytes: float) -> None:
    """Hashes this much: some milliseconds for ten, longer where other work is slow too."""
    for _ in range(round(mebibytes)):
        hashlib.sha256(MEBIBYTE)
