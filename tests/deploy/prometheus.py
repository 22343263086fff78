"""A real Prometheus that scrapes a gateway with our rules."""

from __future__ import annotations

import json
import socket
import subprocess
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from tests.model_store.object_stores import dying_with_parent
from tests.model_store.registries import program
from tests.service.servers import ROOT
from tests.service.waiting import PATIENCE_S

DEPLOY = ROOT / "deploy"
RULES = DEPLOY / "prometheus"


class Prometheus:
    """A real one, that scrapes a gateway with our rules."""

    def __init__(
        self, folder: Path, targets: Sequence[Any], rules: Path = RULES / "alerts.yml"
    ) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        config = yaml.safe_load((RULES / "prometheus.yml").read_text())
        config["global"] = {"scrape_interval": "1s", "evaluation_interval": "1s"}
        config["rule_files"] = [str(rules)]
        config["scrape_configs"][0]["static_configs"] = list(targets)
        file = folder / "prometheus.yml"
        file.write_text(yaml.safe_dump(config))
        self.log = folder / "prometheus.log"
        command = [
            program("prometheus", "prometheus"),
            f"--config.file={file}",
            f"--storage.tsdb.path={folder / 'series'}",
            f"--web.listen-address=127.0.0.1:{self.port}",
        ]
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(dying_with_parent(command), stdout=log, stderr=log)

    def __enter__(self) -> Prometheus:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.terminate()
        self.process.wait(PATIENCE_S)

    def ask(self, path: str, **parameters: str) -> Any:
        """The data of an answer of its API; None while it starts."""
        assert self.process.poll() is None, self.log.read_text()[-2000:]
        url = f"http://127.0.0.1:{self.port}/api/v1/{path}?{urllib.parse.urlencode(parameters)}"
        try:
            with urllib.request.urlopen(url, timeout=PATIENCE_S) as response:
                return json.load(response)["data"]
        except urllib.error.HTTPError as error:
            if error.code == 503:
                return None
            raise AssertionError(f"{parameters}: {error.read().decode()}") from None
        except urllib.error.URLError:
            return None

    def query(self, expression: str) -> list[Any]:
        """The samples of an expression now."""
        return (self.ask("query", query=expression) or {"result": []})["result"]
