from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from tests.runtime.services.wyoming_clients import Server


@pytest.fixture
def serve() -> Iterator[Callable[..., Server]]:
    servers: list[Server] = []

    def start(*arguments: object, uri: str = "tcp://127.0.0.1:0") -> Server:
        servers.append(Server(*arguments, uri=uri))
        return servers[-1]

    yield start
    for server in servers:
        status, complaints = server.stop()
        assert (status, complaints) == (0, "")


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    """One server for the tests that leave it as it was: whatever they sent, it ends well and has complained of nothing."""
    server = Server()
    yield server
    status, complaints = server.stop()
    assert (status, complaints) == (0, "")
