"""What is to be labelled: folders, manifests, names of every kind."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("pyarrow")

import pyarrow as pa

from edge_ser import ConfigError
from edge_ser.archive.listing import listing, text, texts
from edge_ser.archive.units import FEWEST_FILES, MOST_BYTES, MOST_FILES, units
from tests.runtime.archive.conftest import Archive, label, rows


def names(*roots: object) -> list[str]:
    return [os.fsdecode(file) for file in listing([str(root) for root in roots]).recordings["file"].to_pylist()]


def sized(*n_bytes: int) -> Any:
    return pa.table({"file": pa.array([b"%06d" % i for i in range(len(n_bytes))], pa.large_binary()), "n_bytes": n_bytes})


def test_folders_are_listed_sorted_and_each_recording_once(archive: Archive) -> None:
    expected = sorted([*archive.answers, *archive.refused])
    assert names(archive.folder) == expected
    assert names(archive.folder, archive.folder / "a", archive.folder / "a" / "000.wav") == expected
    assert listing([str(archive.folder), str(archive.folder)]).n_doubles == len(expected)


def test_what_is_no_recording_is_passed_over(tmp_path: Path) -> None:
    for name in ("a.wav", "B.FLAC", "c.txt", "d.wav.part"):
        (tmp_path / name).write_bytes(b"x")
    (tmp_path / "folder.wav").mkdir()
    os.mkfifo(tmp_path / "pipe.wav")
    (tmp_path / "loop").symlink_to(tmp_path)
    assert names(tmp_path) == [str(tmp_path / "B.FLAC"), str(tmp_path / "a.wav")]


def test_a_name_that_is_no_text_and_what_looks_like_it_are_labelled_once_each(archive: Archive, tmp_path: Path) -> None:
    first, second = sorted((archive.folder / "a").glob("*.wav"))[:2]
    (tmp_path / "in").mkdir()
    shutil.copy(first, os.fsdecode(os.fsencode(tmp_path / "in") + b"/caf\xe9.wav"))
    for _ in range(2):
        label(tmp_path / "in", "-o", tmp_path / "out")
    (row,) = rows(tmp_path / "out")
    assert (row["file"], row["error"]) == (f"{tmp_path}/in/caf\\xe9.wav", None)
    shutil.copy(second, tmp_path / "in" / r"caf\xe9.wav")
    for _ in range(2):
        label(tmp_path / "in", "-o", tmp_path / "out")
    found = {row["file"]: row["embedding"] for row in rows(tmp_path / "out")}
    assert sorted(found) == [f"{tmp_path}/in/caf\\\\xe9.wav", f"{tmp_path}/in/caf\\xe9.wav"]
    assert len(set(map(tuple, found.values()))) == 2


@given(st.lists(st.text(alphabet="\\xe89\udce9é", max_size=8), min_size=2, max_size=2, unique=True))
def test_no_two_names_have_the_same_text(names: list[str]) -> None:
    files = [os.fsencode(name) for name in names]
    assert len({*map(text, files)}) == 2
    assert texts(pa.array(files, pa.large_binary())).to_pylist() == [text(file) for file in files]


def test_nothing_to_label_is_one_line(tmp_path: Path) -> None:
    for root in (tmp_path / "nowhere", tmp_path):
        with pytest.raises(ConfigError, match=r"there is no .*nowhere|no recordings in"):
            names(root)


def test_what_is_not_decoded_is_counted_and_told(speech: Path, tmp_path: Path) -> None:
    (tmp_path / "folder.mkv").mkdir()
    (tmp_path / "folder.mkv" / "2 b.M4A").touch()
    (tmp_path / "notes.txt").touch()
    with pytest.raises(ConfigError, match=r"no recordings in .*; 1 file that is not decoded here was skipped; convert it: ff"):
        names(tmp_path)
    (tmp_path / "9.webm").touch()
    shutil.copy(speech, tmp_path)
    assert names(tmp_path) == [str(tmp_path / speech.name)]
    done = label(tmp_path, "-o", tmp_path / "out")
    told = f"edge-ser: 2 files that are not decoded here were skipped; convert each: ffmpeg -v error -i {tmp_path}/9.webm "
    assert told + f"{tmp_path}/9.webm.wav" in done.stderr.splitlines()


@pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet"])
def test_an_empty_manifest_is_called_that(kind: str, tmp_path: Path) -> None:
    (tmp_path / f"calls.{kind}").touch()
    with pytest.raises(ConfigError, match=rf"the manifest .*calls\.{kind} is empty; expected"):
        names(tmp_path / f"calls.{kind}")


@pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet"])
def test_a_manifest_names_recordings_and_carries_columns(archive: Archive, tmp_path: Path, kind: str) -> None:
    from pyarrow import parquet

    inside = os.path.relpath(archive.folder / "a/000.wav", tmp_path)
    table = [
        {"path": inside, "agent": "007", "call_id": "x,1"},
        {"path": str(archive.folder / "b/001.wav"), "agent": "008", "call_id": "y"},
        {"path": "gone.wav", "agent": "009", "call_id": ""},
    ]
    manifest = tmp_path / f"calls.{kind}"
    if kind == "csv":
        text = 'path,agent,call_id\r\n{},007,"x,1"\r\n{},008,y\r\n{},009,\r\n'
        manifest.write_bytes(b"\xef\xbb\xbf" + text.format(*(row["path"] for row in table)).encode())
    elif kind == "jsonl":
        manifest.write_text("".join(json.dumps(row) + "\n" for row in table))
    else:
        parquet.write_table(pa.Table.from_pylist(table), manifest)
    label(manifest, "-o", tmp_path / "out", "--jobs", 1)
    found = {row["agent"]: row for row in rows(tmp_path / "out")}
    assert {agent: row["call_id"] for agent, row in found.items()} == {"007": "x,1", "008": "y", "009": ""}
    assert [row["file"] for row in found.values()] == sorted(row["file"] for row in found.values())
    assert found["007"]["label"] == archive.answers[str(archive.folder / "a/000.wav")]["label"]
    assert "No such file" in found["009"]["error"]
    done = label(archive.folder, "-o", tmp_path / "out", status=1)
    assert "now it would be without further columns of manifests; ask as before" in done.stderr
    assert "agent (string)" in done.stderr


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("wav,agent\na.wav,1\n", "expected one of the paths, file or path"),
        ("file,label\na.wav,sad\n", "the manifest's column label is one that the answers have"),
        ("file,agent\na.wav,1\n,2\n", "row 2 has no file"),
        ("file,agent\na.wav\n", "cannot read the manifest"),
        ("", "calls.csv is empty; expected a column file or path, and a row a recording"),
        ("\ufeff\r\n \n", "calls.csv is empty; expected"),
        ("file,agent\n", "calls.csv; expected files in .wav"),
    ],
)
def test_a_manifest_that_does_not_fit_is_one_line(content: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "calls.csv").write_text(content)
    done = label(tmp_path / "calls.csv", "-o", tmp_path / "out", status=1)
    assert message in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_units_are_of_many_short_recordings_or_one_long() -> None:
    def sizes(table: Any, jobs: int) -> list[int]:
        return [len(unit.files) for unit in units(table, jobs)]

    assert sizes(sized(*[1000] * 1000), 1) == [125] * 8
    assert sizes(sized(*[1000] * 100), 8) == [FEWEST_FILES, 100 - FEWEST_FILES]
    assert set(sizes(sized(*[10] * 50_000), 2)[:-1]) == {MOST_FILES}
    assert sizes(sized(10, 10, MOST_BYTES, 3 * MOST_BYTES, 10), 1) == [2, 1, 1, 1]
    for table in (sized(*range(5000)), sized(*[MOST_BYTES // 3] * 100)):
        cut = [file for unit in units(table, 2) for file in unit.files]
        assert cut == table["file"].to_pylist()
