"""The connections that are joined with gRPC's socket."""

from __future__ import annotations

import asyncio

from service.open_inference.grpc_connections import Connection, Connections


def test_where_grpc_does_not_listen_no_file_stays() -> None:
    async def join() -> list[str]:
        connections = Connections()
        try:
            await connections._join(Connection(connections))
            return [path.name for path in connections._folder.iterdir()]
        finally:
            await connections.close()

    assert asyncio.run(join()) == []
