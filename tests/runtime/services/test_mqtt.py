from __future__ import annotations

import json
import os
import queue
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from edge_ser import ConfigError, EmotionRecognizer
from edge_ser.services.mqtt import Broker, Publisher
from tests.commanding import COMMAND, run, without
from tests.needs import need
from tests.runtime.services.mqtt_broker import WAIT_S, Home, Mosquitto

ANSWER = {"event": "utterance", "label": "happy", "confidence": 0.8, "text": "ü"}


def said(lines: queue.Queue[str], part: str) -> str:
    while part not in (line := lines.get(timeout=WAIT_S)):
        pass
    return line


def test_answers_come_as_they_are_and_who_comes_later_sees_the_last(broker: Mosquitto, listen_at: Callable[..., Home]) -> None:
    lines: queue.Queue[str] = queue.Queue()
    home = listen_at(broker.port)
    with Publisher(Broker.from_url(f"{broker.url}/home/kitchen"), lines.put) as publisher:
        home.until("home/kitchen/availability", "online")
        assert "below home/kitchen/" in said(lines, "publishing")
        assert publisher.publish(ANSWER)
        topic, payload, retained = home.next()
        assert (topic, json.loads(payload), retained) == ("home/kitchen/utterance", ANSWER, False)
        assert "ü" in payload
        tone = {"event": "tone", "label": "happy"}
        assert publisher.publish(ANSWER | {"label": "sad"})
        assert publisher.publish(tone)
        assert [home.next()[0] for _ in range(2)] == ["home/kitchen/utterance", "home/kitchen/tone"]
        late = listen_at(broker.port)
        heard = {topic: (payload, retained) for topic, payload, retained in (late.next() for _ in range(3))}
        assert heard.pop("home/kitchen/availability") == ("online", True)
        assert {topic: (json.loads(payload), retained) for topic, (payload, retained) in heard.items()} == {
            "home/kitchen/utterance": (ANSWER | {"label": "sad"}, True),
            "home/kitchen/tone": (tone, True),
        }
    assert home.next() == ("home/kitchen/availability", "offline", False)
    assert late.next() == ("home/kitchen/availability", "offline", False)
    assert publisher.dropped == 0
    after = listen_at(broker.port)
    assert ("home/kitchen/availability", "offline", True) in [after.next() for _ in range(3)]


def test_home_assistant_is_told_what_there_is(broker: Mosquitto, listen_at: Callable[..., Home]) -> None:
    lines: queue.Queue[str] = queue.Queue()
    with Publisher(Broker.from_url(f"{broker.url}/home/kitchen"), lines.put, lambda: ["neutral", "happy"]):
        said(lines, "publishing")
        home = listen_at(broker.port)
        heard = dict(home.next()[:2] for _ in range(3))
    for name in ("tone", "utterance"):
        sensor = json.loads(heard[f"homeassistant/sensor/home_kitchen_{name}/config"])
        assert heard[sensor["availability_topic"]] == "online"
        assert sensor["state_topic"] == sensor["json_attributes_topic"] == f"home/kitchen/{name}"
        assert sensor["options"] == ["neutral", "happy", "uncertain", "no_speech"]
        assert sensor["unique_id"] == f"home_kitchen_{name}"
        assert sensor["value_template"] == "{{ value_json.label }}"


def test_the_broker_may_stop_and_come_back(broker: Mosquitto, listen_at: Callable[..., Home]) -> None:
    lines: queue.Queue[str] = queue.Queue()
    home = listen_at(broker.port)
    with Publisher(Broker.from_url(broker.url), lines.put) as publisher:
        home.until("edge-ser/availability", "online")
        said(lines, "publishing")
        assert publisher.publish(ANSWER)
        assert home.next()[0] == "edge-ser/utterance"
        broker.stop()
        said(lines, "lost")
        assert not publisher.publish(ANSWER)
        assert publisher.dropped == 1
        broker.start()
        said(lines, "publishing")
        home.until("edge-ser/availability", "online")
        end = time.monotonic() + WAIT_S
        while home.messages.empty() and time.monotonic() < end:  # until the home itself has come back and subscribed
            assert publisher.publish(ANSWER)
            time.sleep(0.2)
        topic, payload, _ = home.next()
        assert (topic, json.loads(payload)) == ("edge-ser/utterance", ANSWER)


def test_a_broker_that_comes_later_is_found(make_broker: Callable[..., Mosquitto], listen_at: Callable[..., Home]) -> None:
    broker = make_broker()
    lines: queue.Queue[str] = queue.Queue()
    with Publisher(Broker.from_url(broker.url), lines.put) as publisher:
        assert "refused" in said(lines, "cannot be reached")
        assert not publisher.publish(ANSWER)
        broker.start()
        said(lines, "publishing")
        home = listen_at(broker.port)
        assert home.next()[:2] == ("edge-ser/availability", "online")
        assert publisher.publish(ANSWER)
        assert home.next()[0] == "edge-ser/utterance"


def test_a_killed_publisher_is_offline(broker: Mosquitto, listen_at: Callable[..., Home]) -> None:
    code = (
        "import sys, time; from edge_ser.services.mqtt import *\n"
        "publisher = Publisher(Broker.from_url(sys.argv[1]), print)\n"
        "time.sleep(600)"
    )
    home = listen_at(broker.port)
    process = subprocess.Popen([sys.executable, "-c", code, f"{broker.url}/cellar"], stdout=subprocess.DEVNULL)
    try:
        home.until("cellar/availability", "online")
        process.send_signal(signal.SIGKILL)
        assert home.next() == ("cellar/availability", "offline", False)
    finally:
        process.kill()
        process.wait()
    assert listen_at(broker.port).next() == ("cellar/availability", "offline", True)


def test_name_and_password(make_broker: Callable[..., Mosquitto], listen_at: Callable[..., Home], tmp_path: Path) -> None:
    need("mosquitto_passwd")
    passwords = tmp_path / "passwords"
    subprocess.run(["mosquitto_passwd", "-b", "-c", passwords, "me", "p@ss/wörd"], check=True)
    passwords.chmod(0o600)
    broker = make_broker(f"password_file {passwords}")
    broker.start()
    lines: queue.Queue[str] = queue.Queue()
    with Publisher(Broker.from_url(f"mqtt://me:wrong@127.0.0.1:{broker.port}"), lines.put) as publisher:
        refusal = said(lines, "refuses")
        assert "wrong" not in refusal
        assert not publisher.publish(ANSWER)
    secret = tmp_path / "url"
    secret.write_text(f"mqtt://me:p%40ss%2Fw%C3%B6rd@127.0.0.1:{broker.port}\n")
    with Publisher(Broker.from_url(f"@{secret}"), lines.put) as publisher:
        said(lines, "publishing")
        home = listen_at(broker.port, username="me", password="p@ss/wörd")
        assert home.next()[:2] == ("edge-ser/availability", "online")


def test_tls(make_broker: Callable[..., Mosquitto], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    need("openssl")
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    make = "openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=localhost -addext subjectAltName=IP:127.0.0.1"
    subprocess.run([*make.split(), "-keyout", str(key), "-out", str(certificate)], check=True, capture_output=True)
    key.chmod(0o644)
    broker = make_broker(f"certfile {certificate}", f"keyfile {key}")
    broker.start()
    lines: queue.Queue[str] = queue.Queue()
    url = f"mqtts://127.0.0.1:{broker.port}"
    with Publisher(Broker.from_url(url), lines.put):
        assert "CERTIFICATE_VERIFY_FAILED" in said(lines, "cannot be reached")
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    with Publisher(Broker.from_url(url), lines.put) as publisher:
        said(lines, "publishing")
        assert publisher.publish(ANSWER)


@pytest.mark.timing
@pytest.mark.parametrize("trouble", ["frozen", "mute", "nowhere"])
def test_publishing_never_waits(trouble: str, broker: Mosquitto) -> None:
    """A broker that is stopped in its tracks, one that takes the connection and says nothing, and one there is no way to.

    Who waits for them does so every time; a machine with other work holds us up now and then.
    """
    with socket.create_server(("127.0.0.1", 0)) as mute:
        host, port = {
            "frozen": ("127.0.0.1", broker.port),
            "mute": ("127.0.0.1", mute.getsockname()[1]),
            "nowhere": ("192.0.2.1", 1883),  # a documentation address: packets to it vanish
        }[trouble]

        def waited_s() -> tuple[float, float]:
            """Return the longest that one of many events takes, and what leaving takes."""
            lines: queue.Queue[str] = queue.Queue()
            publisher, slowest_s = Publisher(Broker(host, port), lines.put), 0.0
            try:
                if trouble == "frozen":
                    said(lines, "publishing")
                    assert broker.process is not None
                    broker.process.send_signal(signal.SIGSTOP)
                for _ in range(500):
                    began = time.perf_counter()
                    publisher.publish(ANSWER | {"much": "x" * 10_000})
                    slowest_s = max(slowest_s, time.perf_counter() - began)
            finally:
                began = time.perf_counter()
                publisher.close()
                closed_s = time.perf_counter() - began
                if trouble == "frozen" and broker.process is not None:
                    broker.process.send_signal(signal.SIGCONT)
            return slowest_s, closed_s

        rounds = (waited_s() for _ in range(3))
        # A connection attempt alone takes five seconds.
        assert any(slowest_s < 0.5 and closed_s < 4 for slowest_s, closed_s in rounds)


@pytest.mark.parametrize(
    "url",
    [
        "",
        "broker",
        "me:secret@broker",
        "http://me:secret@broker",
        "mqtt://me:secret@",
        "mqtt://me:secret@broker:port",
        "mqtt://me:secret@broker:99999",
        "mqtt://me:secret@broker:0",
        "mqtt://me:secret@a..b",
        "mqtt://me:sec#secret@broker",
        "mqtt://me:secret@broker/with/+/wildcard",
        "mqtt://me:secret@broker/" + "x" * 2000,
        "mqtt://me:secret@broker/x?y=1",
        "mqtt://me:secret@broker/#",
        "mqtt://me:secret@broker/%23",
        "mqtt://me:secret@broker/$SYS/x",
        "mqtt://me:secret@broker/%24share/x",
        "mqtt://me:secret@broker/a%0Ab",
        "mqtt://me:secret@broker/a%0D",
        "mqtt://me:secret@broker/a%00b",
        "mqtt://me:secret@broker/a\nb",
        "mqtt://me:secret@broker/a\tb",
        "mqtt://me:secret@broker/\udcff",
        "@/does/not/exist",
    ],
)
def test_a_wrong_url_is_one_line_without_the_password(url: str) -> None:
    with pytest.raises(ConfigError) as caught:
        Broker.from_url(url)
    assert "expected mqtt" in str(caught.value) or "cannot read" in str(caught.value) or "expected levels" in str(caught.value)
    assert "secret" not in str(caught.value)
    assert "secret" not in repr(Broker.from_url("mqtt://me:secret@broker"))


def test_listen_publishes_what_it_prints_whatever_the_broker_does(
    broker: Mosquitto, listen_at: Callable[..., Home], data_dir: Path
) -> None:
    clip = sorted((data_dir / "emodb" / "audio").glob("*.flac"))[10]
    samples, rate_hz = soundfile.read(clip, dtype="int16")
    talk = np.concatenate([np.zeros(8000, np.int16), samples, np.zeros(16000, np.int16)])
    home = listen_at(broker.port)
    listening = subprocess.Popen(
        [*COMMAND, "listen", "-", "--jsonl", "--rate", str(rate_hz), "--home-assistant"],
        env={**os.environ, "EDGE_SER_MQTT": f"{broker.url}/kitchen"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert listening.stdin is not None
    assert listening.stdout is not None
    assert listening.stderr is not None

    def speak() -> dict[str, Any]:
        """Say the clip, and return what is printed of it."""
        assert listening.stdin is not None
        assert listening.stdout is not None
        listening.stdin.write(talk.tobytes())
        listening.stdin.flush()
        while (event := json.loads(listening.stdout.readline()))["event"] != "utterance":
            pass
        answer: dict[str, Any] = event
        return answer

    def hear() -> dict[str, Any]:
        """Return what the home hears of it."""
        while (message := home.next())[0] != "kitchen/utterance":
            pass
        heard: dict[str, Any] = json.loads(message[1])
        return heard

    try:
        home.until("kitchen/availability", "online")
        first = speak()
        assert hear() == first
        part = talk[round(first["start_s"] * rate_hz) : round(first["stop_s"] * rate_hz)]
        expected = EmotionRecognizer(min_confidence=0.5).predict((part, rate_hz)).record()
        assert {key: first[key] for key in expected} == expected
        assert b"MQTT: publishing to 127.0.0.1 below kitchen/" in listening.stderr.readline()
        broker.stop()
        assert b"lost" in listening.stderr.readline()
        speak()  # into the void; listening goes on
        broker.start()
        while b"publishing" not in (line := listening.stderr.readline()):
            pass
        assert b"events could not be sent" in line
        home.until("kitchen/availability", "online")  # so the home has come back, too
        third = speak()
        assert hear() == third
        listening.kill()
        home.until("kitchen/availability", "offline")
    finally:
        listening.kill()
        listening.communicate()


def test_mistakes_of_the_command_are_one_line_without_the_password(tmp_path: Path) -> None:
    for arguments, expected in (
        (["--home-assistant"], "goes with --mqtt"),
        (["--mqtt", "mqtt://me:secret@broker:port"], "expected mqtt://"),
        (["--mqtt", f"@{tmp_path}/none"], "cannot read the MQTT URL"),
    ):
        done = run("listen", "-", *arguments, stdin=b"")
        assert done.returncode == 2
        assert expected in done.stderr.decode().replace("\n", " ")
        assert b"secret" not in done.stderr
    done = run("listen", "-", "--mqtt", "mqtt://broker", stdin=b"", command=without("paho"))
    assert done.returncode == 1
    assert b"pip install 'edge-ser[mqtt]'" in done.stderr


def test_the_screen_tells_of_the_broker(speech: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    done = run("listen", "--realtime", speech, "--mqtt", f"mqtt://127.0.0.1:{port}")
    assert (done.returncode, done.stderr) == (0, b"")
    notes = [line for line in done.stdout.decode().splitlines() if "MQTT" in line]
    assert len(notes) == 1  # however often it tried
    assert f"127.0.0.1 port {port} cannot be reached: [Errno 111] Connection refused; trying again" in notes[0]
