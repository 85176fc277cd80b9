"""Recordings in object storage: a local S3 server."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("pyarrow")
pytest.importorskip("moto.server")

from tests.runtime.archive.conftest import Archive, complaint, label, require_same, rows

CREDENTIALS = {"AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret", "AWS_EC2_METADATA_DISABLED": "true"}


@pytest.fixture(scope="module")
def server(archive: Archive) -> Iterator[str]:
    """The query that leads to a server with the archive in the bucket ``calls``, below ``2026``."""
    from moto.server import ThreadedMotoServer
    from pyarrow.fs import S3FileSystem

    with pytest.MonkeyPatch.context() as patch:
        for name, value in CREDENTIALS.items():
            patch.setenv(name, value)
        server = ThreadedMotoServer("127.0.0.1", 0)
        server.start()
        host, port = server.get_host_and_port()
        system: Any = S3FileSystem(
            endpoint_override=f"{host}:{port}", scheme="http", allow_bucket_creation=True, region="us-east-1"
        )
        system.create_dir("calls")
        for path in archive.folder.rglob("*"):
            if path.is_file():
                with system.open_output_stream(f"calls/2026/{path.relative_to(archive.folder)}") as stream:
                    stream.write(path.read_bytes())
        with system.open_output_stream("calls/2026/list.csv") as stream:
            stream.write(b"file,agent\na/000.wav,1\ns3://calls/2026/b/001.wav,2\na/gone.wav,3\n")
        yield f"?scheme=http&endpoint_override={host}:{port}&region=us-east-1"
        server.stop()


def there(archive: Archive) -> Archive:
    """Return the archive as it is called in the bucket; a link to nothing was not uploaded."""

    def name(file: str) -> str:
        return f"s3://calls/2026/{os.path.relpath(file, archive.folder)}"

    refused = {name(file) for file in archive.refused if os.path.exists(file)}
    return Archive(archive.folder, {name(file): answer for file, answer in archive.answers.items()}, refused)


def test_objects_are_labelled_as_files_are(server: str, archive: Archive, tmp_path: Path) -> None:
    for jobs in (2, 1):
        label(f"s3://calls/2026/{server}", "-o", tmp_path / "out", "--jobs", jobs, unit_files=7)
    require_same(tmp_path / "out", there(archive))
    assert all(row["modified"] is not None for row in rows(tmp_path / "out"))


def test_a_second_run_counts_the_objects_that_are_finished(server: str, archive: Archive, tmp_path: Path) -> None:
    here = there(archive)
    every = sorted([*here.answers, *here.refused])
    first = [name for name in every if name.startswith("s3://calls/2026/a/")]

    def finished() -> list[str]:
        said = label(f"s3://calls/2026/{server}", "-o", tmp_path / "out", "--check").stdout
        return re.findall(r"^(?:finished|left) +(\d+),? ", said, re.MULTILINE)

    assert finished() == ["0", str(len(every))]
    assert 0 < len(first) < len(every)
    label(f"s3://calls/2026/a{server}", "-o", tmp_path / "out")
    assert finished() == [str(len(first)), str(len(every) - len(first))]
    again = label(f"s3://calls/2026/{server}", "-o", tmp_path / "out")
    assert f"labelled {len(every) - len(first)} of {len(every) - len(first)} files" in again.stderr
    assert finished() == [str(len(every)), "0"]
    assert "labelled" not in label(f"s3://calls/2026/{server}", "-o", tmp_path / "out").stderr
    require_same(tmp_path / "out", here)


def test_a_manifest_in_the_storage(server: str, archive: Archive, tmp_path: Path) -> None:
    label(f"s3://calls/2026/list.csv{server}", "-o", tmp_path / "out")
    one, gone, two = rows(tmp_path / "out")
    assert [row["agent"] for row in (one, two, gone)] == ["1", "2", "3"]
    assert (one["file"], one["error"]) == ("s3://calls/2026/a/000.wav", None)
    assert gone["error"] == "cannot open s3://calls/2026/a/gone.wav: No such file or directory; expected an audio file"


def test_what_is_not_there_is_one_line(server: str, tmp_path: Path) -> None:
    for url, message in (
        (f"s3://nowhere/{server}", "cannot list s3://nowhere"),
        (f"s3://calls/2025/{server}", "no recordings in|cannot list"),
    ):
        error = complaint(label(url, "-o", tmp_path / "out", status=1))
        assert any(part in error for part in message.split("|")), error


def test_a_storage_that_does_not_answer_stops_the_run_and_blames_no_recording(
    server: str, archive: Archive, tmp_path: Path
) -> None:
    from edge_ser import EmotionRecognizer
    from edge_ser.archive.listing import listing
    from edge_ser.archive.plan import Plan
    from edge_ser.archive.storage import Storage
    from edge_ser.archive.units import Labeller, label_unit, units
    from edge_ser.errors import StorageError

    plan = Plan.of(listing([f"s3://calls/2026/{server}"]), tmp_path / "out", EmotionRecognizer())
    away = Storage(["s3://calls/?scheme=http&endpoint_override=127.0.0.1:9&region=us-east-1"])
    with plan.dataset.labelling():
        unit = next(units(plan.left(), 1))
        with pytest.raises(StorageError, match="start again when the storage answers"):
            label_unit(Labeller(plan.labeller.recognizer, away), unit, plan.dataset)
        assert len(plan.dataset.finished()) == 0
