"""Answers for a smart home: an MQTT publisher that never makes the audio wait.

    PREFIX/utterance         how every utterance sounded, once it is over  } the events of that name, as JSON
    PREFIX/tone              how the voice sounds of late, when it changes }
    PREFIX/correct           what the last utterance was, a label: taken if it was asked for, never as a retained message
    PREFIX/availability      online or offline; the broker itself says offline when we are gone
    homeassistant/sensor/PREFIX_tone/config, and PREFIX_utterance: on request, what makes them sensors in Home Assistant
    homeassistant/select/PREFIX_correct/config: with those, where corrections are taken, what makes them a choice there

All but the correction are retained, so a home that restarts shows what was last. A rule that acts on an utterance should look
at where it came from: a retained message says so, and in Home Assistant the sensor's state before it is `unknown` or
`unavailable`. What cannot be sent at once is dropped, and counted: a rule had better miss an utterance than hear of it late.
"""

from __future__ import annotations

import contextlib
import json
import re
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any
from urllib.parse import unquote, urlsplit

from edge_ser._version import __version__
from edge_ser.errors import ConfigError, EdgeSerError
from edge_ser.prediction import NO_SPEECH, UNCERTAIN

_SCHEMES = {"mqtt": 1883, "mqtts": 8883}
TOPICS = ("tone", "utterance")
"""The events that are published, each below a topic of its name."""

_KEEPALIVE_S = 30  # after one and a half of it the broker gives up a client that fell silent
_FAREWELL_S = 2.0
_MAX_LABEL_BYTES = 200


@dataclass(frozen=True)
class Broker:
    """Where the answers go: ``mqtt://[USER:PASSWORD@]HOST[:PORT][/PREFIX]``, or ``mqtts://`` for TLS.

    >>> Broker.from_url("mqtt://me:secret@broker.local/home/kitchen")
    Broker(host='broker.local', port=1883, prefix='home/kitchen', tls=False, user='me')
    """

    host: str
    port: int
    prefix: str = "edge-ser"
    """What every topic begins with: one for every device."""
    tls: bool = False
    user: str | None = None
    password: str | None = field(default=None, repr=False)

    @classmethod
    def from_url(cls, url: str) -> Broker:
        """Read a broker's URL, or ``@FILE``, a file that holds it and keeps its password out of sight.

        ConfigError, without the password, for anything else.
        """
        if url.startswith("@"):
            try:
                url = Path(url[1:]).read_text(encoding="utf-8").strip()
            except (OSError, ValueError) as error:
                raise ConfigError(f"cannot read the MQTT URL: {error}") from None
        expected = "expected mqtt://[USER:PASSWORD@]HOST[:PORT][/PREFIX], or mqtts://"
        try:
            if not url.isprintable():  # urlsplit drops line ends without a word
                raise ValueError
            parts = urlsplit(url)
            host, port = parts.hostname or "", parts.port
            host.encode("idna")
        except ValueError:
            raise ConfigError(f"the MQTT URL has no host and port that can be read; {expected}") from None
        if parts.scheme not in _SCHEMES or not host or port == 0 or re.search("[?#]", url):
            raise ConfigError(f"the MQTT URL has scheme {parts.scheme!r} and host {host!r}; {expected}")
        prefix = unquote(parts.path).strip("/") or cls.prefix
        if re.search(r"[+#$]", prefix) or not prefix.isprintable() or len(prefix.encode()) > 1000:
            raise ConfigError(f"the MQTT prefix is {prefix[:100]!r}; expected levels of a topic without +, #, $ and line ends")
        user, password = (None if part is None else unquote(part) for part in (parts.username, parts.password))
        return cls(host, port or _SCHEMES[parts.scheme], prefix, parts.scheme == "mqtts", user, password)


class Publisher:
    """Publishes events to a broker, from a thread of its own that connects, and connects again, for as long as it lives.

    ``report`` is told, in that thread, one line whenever the connection comes, goes or is refused. With ``labels``, which returns
    those of now, the sensors of ``topics`` are announced to Home Assistant, and again when a word was learnt. ``correct`` takes
    the labels that come at PREFIX/correct, and returns a line to report.
    Raises MissingExtraError without the extra ``[mqtt]``.
    """

    def __init__(
        self,
        broker: Broker,
        report: Callable[[str], None],
        labels: Callable[[], Iterable[str]] | None = None,
        correct: Callable[[str], str] | None = None,
        topics: Iterable[str] = TOPICS,
    ) -> None:
        from paho.mqtt.client import Client
        from paho.mqtt.enums import CallbackAPIVersion

        self.broker = broker
        self.dropped = 0
        """Events that came while there was no connection."""
        self._report, self._said = report, ""
        self._labels, self._correct, self._topics = labels, correct, list(topics)
        self._announced: list[str] = []
        self._online = False
        self._client = Client(CallbackAPIVersion.VERSION2)
        self._client.on_connect = self._connected
        self._client.on_message = self._heard
        self._client.on_subscribe = self._subscribed
        self._client.on_connect_fail = self._unreachable
        self._client.on_disconnect = self._disconnected
        if broker.user is not None:
            self._client.username_pw_set(broker.user, broker.password)
        if broker.tls:
            self._client.tls_set()
        self._client.will_set(f"{broker.prefix}/availability", "offline", qos=1, retain=True)
        self._client.reconnect_delay_set(1, 30)
        self._client.connect_async(broker.host, broker.port, _KEEPALIVE_S)
        self._client.loop_start()

    def __enter__(self) -> Publisher:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def publish(self, event: Mapping[str, Any]) -> bool:
        """Send an event below its name, ``event["event"]``; return whether there was a connection. Waits for nothing."""
        if not self._online:
            self.dropped += 1
            return False
        self._announce()
        topic, content = f"{self.broker.prefix}/{event['event']}", json.dumps(event, ensure_ascii=False, allow_nan=False)
        self._client.publish(topic, content, retain=True)
        return True

    def close(self) -> None:
        """Say that we go, and go; where there is no connection, at once."""
        self._report = lambda line: None
        if not self._online:
            self._client.disconnect()
            return
        farewell, heard = self._client.publish(f"{self.broker.prefix}/availability", "offline", qos=1, retain=True), False
        with contextlib.suppress(RuntimeError, ValueError):  # the connection went first, and the broker says it
            farewell.wait_for_publish(_FAREWELL_S)
            heard = farewell.is_published()
        self._client.disconnect()
        if heard:  # or the thread may hang on a broker that no longer reads
            self._client.loop_stop()

    def _connected(self, client: Any, userdata: Any, flags: Any, reason: Any, properties: Any) -> None:
        if reason.is_failure:
            self._say(f"{self.broker.host} refuses the connection: {reason}; trying again")
            return
        self._announced = []
        self._announce()
        client.publish(f"{self.broker.prefix}/availability", "online", qos=1, retain=True)
        self._online = True
        if self._correct is None:
            self._begun()
        else:
            client.subscribe(f"{self.broker.prefix}/correct", qos=1)

    def _subscribed(self, client: Any, userdata: Any, number: Any, reasons: Any, properties: Any) -> None:
        self._begun()  # not before: a correction would have been lost

    def _begun(self) -> None:
        lost = f"; {self.dropped} events could not be sent so far" if self.dropped else ""
        self._say(f"publishing to {self.broker.host} below {self.broker.prefix}/{lost}")

    def _announce(self) -> None:
        """Tell Home Assistant of the labels there are, unless it knows them: it refuses states that it was not told of."""
        known = [] if self._labels is None else list(self._labels())
        if known == self._announced:
            return
        self._announced = known
        announcements = _announcements(self.broker.prefix, [*known, UNCERTAIN, NO_SPEECH], self._topics)
        if self._correct is not None:
            announcements |= _selection(self.broker.prefix, known)
        for topic, content in announcements.items():
            self._client.publish(topic, content, qos=1, retain=True)

    def _heard(self, client: Any, userdata: Any, message: Any) -> None:
        if self._correct is None or message.retain:  # a retained one is of an utterance long past
            return
        try:
            if len(message.payload) > _MAX_LABEL_BYTES:
                raise ConfigError(f"a correction has {len(message.payload)} bytes; expected a label")
            self._report(f"MQTT: {self._correct(message.payload.decode())}")
            self._announce()
        except UnicodeDecodeError:
            self._report("MQTT: a correction is no text; expected a label")
        except EdgeSerError as error:
            self._report(f"MQTT: {error}")

    def _unreachable(self, client: Any, userdata: Any) -> None:
        self._say(f"{self.broker.host} port {self.broker.port} cannot be reached: {sys.exc_info()[1]}; trying again")

    def _disconnected(self, client: Any, userdata: Any, flags: Any, reason: Any, properties: Any) -> None:
        if self._online:
            self._online = False
            self._say(f"the connection to {self.broker.host} is lost; trying again")

    def _say(self, line: str) -> None:
        if line != self._said:
            self._said = line
            self._report(f"MQTT: {line}")


def _announcements(prefix: str, options: list[str], topics: Iterable[str]) -> dict[str, str]:
    """Return, by topic, what Home Assistant's MQTT discovery wants: sensors with the label as state, the rest as attributes."""
    device = re.sub(r"[^A-Za-z0-9_-]", "_", prefix)
    return {
        f"homeassistant/sensor/{device}_{name}/config": json.dumps(
            {
                "name": name.capitalize(),
                "unique_id": f"{device}_{name}",
                "state_topic": f"{prefix}/{name}",
                "value_template": "{{ value_json.label }}",
                "json_attributes_topic": f"{prefix}/{name}",
                "availability_topic": f"{prefix}/availability",
                "device_class": "enum",
                "options": options,
                "force_update": True,
                "icon": "mdi:account-voice",
                "device": {"identifiers": [device], "name": prefix, "model": "edge-ser", "sw_version": __version__},
                "origin": {"name": "edge-ser", "sw_version": __version__},
            }
        )
        for name in topics
    }


def _selection(prefix: str, options: list[str]) -> dict[str, str]:
    """Return, by topic, what makes the correction of the last utterance a select entity in Home Assistant."""
    device = re.sub(r"[^A-Za-z0-9_-]", "_", prefix)
    return {
        f"homeassistant/select/{device}_correct/config": json.dumps(
            {
                "name": "That was",
                "unique_id": f"{device}_correct",
                "command_topic": f"{prefix}/correct",
                "availability_topic": f"{prefix}/availability",
                "options": options,
                "icon": "mdi:account-edit",
                "device": {"identifiers": [device], "name": prefix, "model": "edge-ser", "sw_version": __version__},
                "origin": {"name": "edge-ser", "sw_version": __version__},
            }
        )
    }
