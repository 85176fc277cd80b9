from __future__ import annotations

import pytest

from edge_ser.prediction import Prediction
from edge_ser.recognizer import EmotionRecognizer
from edge_ser.terminal import Layout, utterance_header, utterance_row
from tests.conftest import ROOT

LABELS = ("neutral", "angry", "happy", "sad")


def rows(width: int, name: str = "a/folder/with/a_long_name.flac") -> list[str]:
    layout = Layout.of(len(name), len(LABELS), width)
    head = layout.row("file", "emotion", "confidence", LABELS, "length")
    return [head, layout.row(name, "uncertain", "███████▏    71%", ["71%", "20%", "6%", "3%"], "3600.00 s", "  middle")]


@pytest.mark.parametrize("width", [40, 60, 80, 100, 120, 200])
def test_a_row_fits_the_terminal_and_says_the_most_there_is_room_for(width: int) -> None:
    head, row = rows(width)
    assert max(len(head), len(row)) <= width
    assert "71%" in row
    assert row.endswith("  middle")
    assert ("sad" in head, "█" in row) == (width >= 80, width >= 120)


@pytest.fixture(scope="module")
def answer() -> Prediction:
    return EmotionRecognizer().predict(ROOT / "tests" / "golden" / "synthetic_speech.flac")


@pytest.mark.parametrize("after", ["", "    4 ms"])
@pytest.mark.parametrize("width", [40, 80, 92, 100, 120])
def test_an_utterance_fits_the_terminal(width: int, after: str, answer: Prediction) -> None:
    head = utterance_header(LABELS, after, width)
    row = utterance_row(3599.9, 3613.9, answer, True, after, width)
    assert max(len(head), len(row)) <= width
    assert ("sad" in head) == ("█" in row) == (width >= 91 + len(after))
    assert f"{answer.confidence:4.0%}" in utterance_row(0, 1, answer, False, width=width)
