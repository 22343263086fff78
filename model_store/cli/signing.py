"""Commands that sign published versions and tell whether a trusted key has signed one."""

import os
from pathlib import Path
from typing import Annotated

import typer

from model_store.cli.printing import Store, Task, Version
from model_store.errors import Untrusted
from model_store.exchange.signing import (
    fingerprint,
    load_private_key,
    load_public_keys,
    sign,
    verify,
)
from model_store.store import ModelStore

app = typer.Typer()

Key = Annotated[
    Path, typer.Option("--key", help="Private key in PEM; COSIGN_PASSWORD opens an encrypted one.")
]
Keys = Annotated[
    Path, typer.Option("--keys", help="Trusted public keys: a PEM file, or a folder of *.pub.")
]


@app.command("sign")
def sign_version(task: Task, store: Store, key: Key, version: Version = None) -> None:
    """Sign a version, as cosign signs an image; a key signs it once."""
    password = os.environ.get("COSIGN_PASSWORD", "").encode()
    private_key = load_private_key(key, password)
    opened = ModelStore(store)
    item = opened.resolve(task, version)
    try:
        signer = verify(item.digest, opened.signatures(item.digest), [private_key.public_key()])
        done = "was signed before"
    except Untrusted:
        opened.add_signature(item.digest, sign(item.digest, task, private_key))
        signer, done = fingerprint(private_key.public_key()), "is signed"
    typer.echo(f"{task} v{item.version}, manifest {item.digest}: {done} with key {signer}")


@app.command()
def trusted(task: Task, store: Store, keys: Keys, version: Version = None) -> None:
    """Check that a trusted key has signed a version; exit code 1 if none has."""
    public_keys = load_public_keys(keys)
    opened = ModelStore(store)
    item = opened.resolve(task, version)
    signer = verify(item.digest, opened.signatures(item.digest), public_keys)
    typer.echo(f"{task} v{item.version}, manifest {item.digest}: is signed with key {signer}")
