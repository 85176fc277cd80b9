"""A house says what an utterance was, over a real broker: what is learnt and refused, and what Home Assistant hears of it."""

from __future__ import annotations

import json
import queue
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

from edge_ser import ConfigError, Profile
from edge_ser.services.mqtt import Broker, Publisher
from tests.commanding import COMMAND
from tests.runtime.services.mqtt_broker import WAIT_S, Home, Mosquitto


def test_a_home_says_what_an_utterance_was(broker: Mosquitto, listen_at: Callable[..., Home]) -> None:
    lines: queue.Queue[str] = queue.Queue()
    home = listen_at(broker.port)
    home.client.publish("home/correct", "sad", qos=1, retain=True)
    home.until("home/correct", "sad")  # of long ago: not taken

    def correct(label: str) -> str:
        if label == "nobody":
            raise ConfigError("nothing was answered yet")
        return f"learnt {label}"

    with Publisher(Broker.from_url(f"{broker.url}/home"), lines.put, lambda: ["neutral", "happy"], correct):
        assert "publishing" in lines.get(timeout=WAIT_S)
        later = listen_at(broker.port)
        heard = dict(later.next()[:2] for _ in range(5))
        select = json.loads(heard["homeassistant/select/home_correct/config"])
        assert (select["command_topic"], select["options"]) == ("home/correct", ["neutral", "happy"])
        said_of = {b"happy": "learnt happy", b"nobody": "nothing was", b"\xff": "no text", b"x" * 201: "201 bytes"}
        for payload, line in said_of.items():
            home.client.publish("home/correct", payload, qos=1)
            assert line in lines.get(timeout=WAIT_S)


class Learning:
    """`edge-ser listen --learn` in a process of its own that hears ``talk`` when told to; ``pause_s`` between corrections."""

    def __init__(self, url: str, profile: Path, talk: np.ndarray, pause_s: float) -> None:
        setting = f"from edge_ser.live import corrections; corrections.PAUSE_S = {pause_s}; "
        options = ["--jsonl", "--home-assistant", "--mqtt", f"{url}/kitchen", "--learn", "--profile", str(profile)]
        self.process = subprocess.Popen(
            [sys.executable, "-c", setting + COMMAND[2], "listen", "-", *options],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        self._talk = talk

    def __enter__(self) -> Learning:
        return self

    def __exit__(self, *exc: object) -> None:
        self.process.kill()
        self.process.communicate()

    def hear(self) -> dict[str, Any]:
        """Say something, and return the answer."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(self._talk.tobytes())
        self.process.stdin.flush()
        while (event := json.loads(self.process.stdout.readline()))["event"] != "utterance":
            pass
        answer: dict[str, Any] = event
        return answer

    def note(self, part: str) -> str:
        """Return the next line on standard error that has ``part``."""
        assert self.process.stderr is not None
        while part not in (line := self.process.stderr.readline().decode()):
            assert line, f"it ended without {part!r}"
        return line


def test_a_house_says_that_was_happy_and_the_profile_learns(
    broker: Mosquitto, listen_at: Callable[..., Home], speech: Path, tmp_path: Path
) -> None:
    samples, _ = soundfile.read(speech, dtype="int16")
    talk = np.concatenate([samples, np.zeros(24000, np.int16)])
    (tmp_path / "house").mkdir()
    path = tmp_path / "house" / "me.json"
    home = listen_at(broker.port)

    def counts() -> dict[str, int]:
        person = Profile.load(path).person
        return {} if person is None else person.counts

    def options(kind: str) -> list[str]:
        while (message := home.next())[0] != f"homeassistant/{kind}/config":
            pass
        found: list[str] = json.loads(message[1])["options"]
        return found

    with Learning(broker.url, path, talk, pause_s=3600) as learning:
        assert options("select/kitchen_correct") == ["neutral", "angry", "happy", "sad"]
        learning.note("publishing")
        home.client.publish("kitchen/correct", "happy", qos=1)
        assert "nothing was answered yet" in learning.note("MQTT: ")
        assert not path.exists()
        learning.hear()
        home.client.publish("kitchen/correct", "Happy ", qos=1)
        assert "learnt: that was happy, for Happy (1 so far)" in learning.note("MQTT: ")
        assert counts() == {"happy": 1}
        whole = path.read_bytes()
        home.client.publish("kitchen/correct", "sad", qos=1)
        assert "came within 3600 s of another; it was not learnt" in learning.note("MQTT: ")
        assert path.read_bytes() == whole
        assert [p.name for p in path.parent.iterdir()] == ["me.json"]
    with Learning(broker.url, path, talk, pause_s=0) as learning:
        learning.note("publishing")
        learning.hear()
        home.client.publish("kitchen/correct", "a\nb", qos=1)
        assert "expected a word" in learning.note("MQTT: ")
        assert path.read_bytes() == whole
        home.client.publish("kitchen/correct", "tired", qos=1)
        assert "learnt: that was tired (1 so far)" in learning.note("MQTT: ")
        assert counts() == {"happy": 1, "tired": 1}
        while "tired" not in options("sensor/kitchen_utterance"):  # before a state of it: Home Assistant refuses others
            pass
        assert options("select/kitchen_correct")[-1] == "tired"
        assert list(learning.hear()["probabilities"]) == ["neutral", "angry", "happy", "sad", "tired"]
        assert [p.name for p in path.parent.iterdir()] == ["me.json"]
