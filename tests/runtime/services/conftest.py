from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.runtime.services.mqtt_broker import Home, Mosquitto
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


@pytest.fixture
def make_broker(tmp_path: Path) -> Iterator[Callable[..., Mosquitto]]:
    program = shutil.which("mosquitto", path=f"{os.environ.get('PATH')}:/usr/sbin:/usr/local/sbin")
    if program is None:
        (pytest.fail if os.environ.get("CI") else pytest.skip)("mosquitto is not installed")
    made: list[Mosquitto] = []

    def make(*lines: str) -> Mosquitto:
        made.append(Mosquitto(program, tmp_path, *lines))
        return made[-1]

    yield make
    for broker in made:
        broker.stop()


@pytest.fixture
def broker(make_broker: Callable[..., Mosquitto]) -> Mosquitto:
    broker = make_broker()
    broker.start()
    return broker


@pytest.fixture
def listen_at() -> Iterator[Callable[..., Home]]:
    homes: list[Home] = []

    def listen(port: int, **login: str) -> Home:
        homes.append(Home(port, **login))
        return homes[-1]

    yield listen
    for home in homes:
        home.client.disconnect()
        home.client.loop_stop()
