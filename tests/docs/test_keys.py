"""The keys of JSON that the documentation names are those that are printed."""

from __future__ import annotations

import json
import re
from pathlib import Path

from edge_ser.live import listener
from edge_ser.live.listener import Event
from tests.commanding import run

DOCS = Path(__file__).parents[2] / "docs"
ROWS = dict(
    re.findall(r"^\| `(\w+)` \| (.+) \|$", (DOCS / "live.md").read_text(encoding="utf-8").partition("## Events")[2], re.M)
)


def keys_of(text: str) -> list[str]:
    return re.findall(r"`([a-z_]+)`", re.sub(r"\([^)]*\)", "", text))


def test_every_event_has_its_row() -> None:
    kinds = [kind for kind in vars(listener).values() if isinstance(kind, type) and issubclass(kind, Event) and kind is not Event]
    assert sorted(kind.name for kind in kinds) == sorted(ROWS)
    assert [keys_of(ROWS["overrun"])] == [["overruns"]]


def test_listen_prints_the_keys_of_its_table(speech: Path) -> None:
    rows = ROWS | {"utterance": ROWS["utterance"].replace("the same", ROWS["estimate"])}
    printed = run("listen", "--realtime", speech, "--speed", 100, "--jsonl").stdout.decode().splitlines()
    seen = set()
    for event in map(json.loads, printed):
        assert sorted(event) == sorted(["event", "time_s", *keys_of(rows[event["event"]])])
        seen.add(event["event"])
    assert seen == set(ROWS) - {"overrun"}


def test_predict_prints_the_keys_of_the_first_page(speech: Path) -> None:
    told = re.search(
        r"The keys of a `--json` object are (.+?);", (DOCS / "get-started.md").read_text(encoding="utf-8"), re.DOTALL
    )
    assert told is not None
    assert list(json.loads(run("predict", "--json", speech).stdout)) == keys_of(told[1])
