"""Names, dates and manifests that somebody else made: one line or one row each, and all others are labelled."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

pytest.importorskip("pyarrow")

import pyarrow as pa
from pyarrow import parquet

from edge_ser import ConfigError
from edge_ser.archive.listing import listing
from edge_ser.archive.summary import lines, summarise
from edge_ser.prediction import NO_SPEECH
from tests.runtime.archive.conftest import Archive, label, rows


@pytest.fixture
def good(archive: Archive, tmp_path: Path) -> Path:
    """A recording."""
    path = tmp_path / "in" / "good.wav"
    path.parent.mkdir()
    path.write_bytes((archive.folder / "a/000.wav").read_bytes())
    return path


def manifest(path: Path, content: str | bytes) -> Path:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def test_a_corrupt_recording_whose_name_is_no_text(good: Path, tmp_path: Path) -> None:
    Path(os.fsdecode(os.fsencode(good.parent) + b"/caf\xe9.wav")).write_bytes(b"nothing")
    label(good.parent, "-o", tmp_path / "out")
    found = rows(tmp_path / "out")
    assert sorted(row["error"] is None for row in found) == [False, True]
    assert all("caf\\xe9.wav" in row["error"] for row in found if row["error"])


def test_a_pipe_is_an_error_and_never_waited_for(good: Path, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.wav")
    named = manifest(tmp_path / "m.csv", f"file\n{good}\npipe.wav\n")
    label(named, "-o", tmp_path / "out")
    assert sorted(row["error"] or "" for row in rows(tmp_path / "out")) == [
        "", f"{tmp_path}/pipe.wav is no regular file; expected a recording"
    ]  # fmt: skip


def test_a_date_that_no_calendar_has_room_for(good: Path, tmp_path: Path) -> None:
    os.utime(good, (2**34, 2**34))
    (found,) = listing([str(good)]).recordings["modified"].to_pylist()
    assert found.year > 2262  # beyond what 64 bits of nanoseconds hold, whatever the file system made of it
    os.utime(good, (2**40, 2**40))
    if good.stat().st_mtime == 2**40:  # not every file system keeps it
        assert listing([str(good)]).recordings["modified"].to_pylist() == [None]
    label(good, "-o", tmp_path / "out")
    assert [row["error"] for row in rows(tmp_path / "out")] == [None]


def test_carried_columns_keep_what_python_has_no_room_for(good: Path, tmp_path: Path) -> None:
    table = pa.table({"file": [str(good)], "when": pa.array([1_700_000_000_000_000_001], pa.timestamp("ns"))})
    parquet.write_table(table, tmp_path / "m.parquet")
    label(tmp_path / "m.parquet", "-o", tmp_path / "out")
    (part,) = (tmp_path / "out").glob("*.parquet")
    assert parquet.read_table(part)["when"].cast(pa.int64()).to_pylist() == [1_700_000_000_000_000_001]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("a.wav\nb.wav\n", r"has the columns a\.wav; expected one of the paths, file or path"),
        ("file;who\na.wav;1\n", r"has the columns file;who; expected one of the paths"),
        ("file,file\na.wav,b.wav\n", r"has the column file twice"),
        ("file,agent,Agent\na.wav,1,2\n", r"has the column agent twice, but for capitals"),
        ("file\ns3://[x/a.wav\n", r"s3://\[x/a\.wav is no URL"),
    ],
)
def test_manifests_that_would_lose_something_are_refused(content: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=message):
        listing([str(manifest(tmp_path / "m.csv", content))])


def test_a_column_of_ours_in_capitals_is_refused(good: Path, tmp_path: Path) -> None:
    done = label(manifest(tmp_path / "m.csv", f"file,Label\n{good},x\n"), "-o", tmp_path / "out", status=1)
    assert "column Label is one that the answers have" in done.stderr


def test_a_character_across_the_first_64_kib(good: Path, tmp_path: Path) -> None:
    head = b"file,note\n" + os.fsencode(good) + b","
    content = head + b"x" * (2**16 - len(head) - 1) + "é".encode() + b"\n"
    assert listing([str(manifest(tmp_path / "m.csv", content))]).recordings.num_rows == 1


def test_a_zero_in_a_name_is_a_row_that_says_so(good: Path, tmp_path: Path) -> None:
    named = manifest(tmp_path / "m.jsonl", f'{{"file": "{good}"}}\n{{"file": "a\\u0000.wav"}}\n')
    label(named, "-o", tmp_path / "out")
    assert sorted(row["error"] is None for row in rows(tmp_path / "out")) == [False, True]


def test_a_local_manifest_may_have_a_question_mark(good: Path, tmp_path: Path) -> None:
    assert listing([str(manifest(tmp_path / "what?.csv", f"file\n{good}\n"))]).recordings.num_rows == 1
    assert listing([str(good)]).recordings.num_rows == 1


def test_what_holds_no_speech_is_no_emotion(tmp_path: Path) -> None:
    table = pa.table(
        {
            "file": ["a\nb.wav", "c.wav", "d.wav", "e.wav"],
            "label": ["happy", NO_SPEECH, None, None],
            "duration_s": [1.0, 2.0, 3.0, None],
            "error": [None, None, None, "e.wav is \x1b[2J"],
        }
    )
    parquet.write_table(table, tmp_path / "part-x.parquet")
    found = summarise(tmp_path)
    assert (dict(found.rows), found.n_without_speech, sum(found.errors.values())) == ({"happy": 1}, 2, 1)
    assert all(line.isprintable() for line in lines(found))
