"""A real MQTT broker on a port of its own, and what listens there."""

from __future__ import annotations

import contextlib
import getpass
import queue
import socket
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
from paho.mqtt.client import Client, MQTTMessage
from paho.mqtt.enums import CallbackAPIVersion

WAIT_S = 120.0


class Mosquitto:
    """A real broker on a port of its own."""

    def __init__(self, program: str, folder: Path, *lines: str) -> None:
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]
        self.config = folder / "mosquitto.conf"
        access = [] if any(line.startswith("password_file") for line in lines) else ["allow_anonymous true"]
        self.config.write_text("\n".join([f"listener {self.port} 127.0.0.1", *access, *lines, f"user {getpass.getuser()}"]))
        self.program = program
        self.log_path = folder / "mosquitto.log"
        self.process: subprocess.Popen[bytes] | None = None
        self.url = f"mqtt://127.0.0.1:{self.port}"

    def start(self) -> None:
        with self.log_path.open("w") as log:
            self.process = subprocess.Popen([self.program, "-c", str(self.config)], stderr=log)
        end = time.monotonic() + WAIT_S
        while time.monotonic() < end:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), timeout=1):
                return
            assert self.process.poll() is None, self.log_path.read_text()
            time.sleep(0.05)
        pytest.fail("mosquitto does not listen")

    def stop(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None


class Home:
    """What a smart home hears: every message below ``#``, with whether it was retained."""

    def __init__(self, port: int, **login: str) -> None:
        self.messages: queue.Queue[tuple[str, str, bool]] = queue.Queue()
        self.client = Client(CallbackAPIVersion.VERSION2)
        self.client.on_connect = lambda client, *_: client.subscribe("#", qos=1)
        self.client.on_message = self._heard
        self.client.reconnect_delay_set(1, 1)
        if login:
            self.client.username_pw_set(**login)
        self.client.connect_async("127.0.0.1", port)
        self.client.loop_start()

    def _heard(self, client: Client, userdata: Any, message: MQTTMessage) -> None:
        self.messages.put((message.topic, message.payload.decode(errors="replace"), message.retain))

    def next(self) -> tuple[str, str, bool]:
        return self.messages.get(timeout=WAIT_S)

    def until(self, topic: str, payload: str) -> None:
        while self.next()[:2] != (topic, payload):
            pass
