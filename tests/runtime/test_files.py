"""The one writer: what is there is replaced whole or left alone, whatever it is."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from edge_ser.errors import ConfigError, RunError
from edge_ser.files import holding, is_stream, require_writable, writing
from tests.commanding import ending


def write(path: Path, content: bytes = b"new") -> None:
    with writing(path) as file:
        file.write(content)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "x.csv"
    path.write_bytes(b"old")
    path.chmod(0o640)

    def fail() -> None:
        with writing(path) as file:
            file.write(b"half")
            file.flush()
            assert path.read_bytes() == b"old"
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert path.read_bytes() == b"old"
    write(path)
    assert path.read_bytes() == b"new"
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    plain = tmp_path / "plain"
    plain.touch()
    write(tmp_path / "fresh")
    assert (tmp_path / "fresh").stat().st_mode == plain.stat().st_mode
    assert names(tmp_path) == ["fresh", "plain", "x.csv"]


def test_a_link_stays_and_what_it_leads_to_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    (tmp_path / "here").mkdir()
    link = tmp_path / "here" / "link.csv"
    link.symlink_to(Path("..", "there", "real.csv"))
    for content in (b"made", b"replaced"):
        write(link, content)
        assert link.is_symlink()
        assert (tmp_path / "there" / "real.csv").read_bytes() == content
    assert names(tmp_path / "there") == ["real.csv"]
    assert names(tmp_path / "here") == ["link.csv"]


def test_a_pipe_and_a_device_are_written_through(tmp_path: Path) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    assert is_stream(fifo)
    require_writable(fifo)  # and does not wait for a reader
    heard: list[bytes] = []
    reader = threading.Thread(target=lambda: heard.append(fifo.read_bytes()))
    reader.start()
    write(fifo)
    reader.join(120)
    assert heard == [b"new"]
    assert stat.S_ISFIFO(fifo.stat().st_mode)
    write(Path("/dev/null"))
    assert stat.S_ISCHR(Path("/dev/null").stat().st_mode)
    with pytest.raises(ConfigError, match="cannot write /dev/full: No space left on device"):
        write(Path("/dev/full"))
    assert names(tmp_path) == ["fifo"]


def test_standard_output_by_all_its_names(tmp_path: Path) -> None:
    link = tmp_path / "link"
    link.symlink_to("/dev/stdout")
    code = (
        "import sys; from pathlib import Path; from edge_ser.files import writing; print('before')\n"
        "for name in sys.argv[1:]:\n with writing(Path(name)) as file: file.write(name.encode() + b'\\n')\n"
        "print('behind')"
    )
    outputs = ["-", "/dev/stdout", "/dev/fd/1", "/proc/self/fd/1", str(link)]
    out = tmp_path / "out.txt"
    out.write_text("kept\n")
    with out.open("ab") as file:
        subprocess.run([sys.executable, "-c", code, *outputs], stdout=file, check=True)
    assert out.read_text().splitlines() == ["kept", "before", *outputs, "behind"]
    closed = [sys.executable, "-c", "import sys; sys.stdout = None\n" + code.replace("print", "str"), "-"]
    done = subprocess.run(closed, capture_output=True, check=False)
    assert b"cannot write standard output: standard output is closed" in done.stderr


def test_what_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    for path, reason in (
        (tmp_path, "Is a directory"),
        (tmp_path / "no" / "x", "No such file or directory"),
        (tmp_path / "a\0b", "no file can have such a name"),
    ):
        for attempt in (write, require_writable):
            with pytest.raises(ConfigError) as caught:
                attempt(path)
            assert str(caught.value) == f"cannot write {path}: {reason}"
    with pytest.raises(RunError, match="cannot write the run"), writing(tmp_path, "the run", RunError):
        pass
    long = tmp_path / ("ü" * 120)
    write(long)
    assert names(tmp_path) == [long.name]


def test_writers_at_the_same_time_do_not_mix(tmp_path: Path) -> None:
    path = tmp_path / "x"
    contents = [bytes([65 + i]) * 100_000 for i in range(8)]

    def repeat(content: bytes) -> None:
        for _ in range(10):
            write(path, content)

    threads = [threading.Thread(target=repeat, args=(content,)) for content in contents]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        assert not path.exists() or path.read_bytes() in contents
    assert names(tmp_path) == ["x"]


def test_what_a_killed_process_left_is_swept_and_what_a_living_one_writes_is_not(tmp_path: Path) -> None:
    path = tmp_path / "x.csv"
    mine = tmp_path / ".x.csv.notes.edge-ser"
    mine.touch()
    code = (
        "import sys; from pathlib import Path; from edge_ser.files import writing\n"
        "with writing(Path(sys.argv[1])) as file:\n"
        " file.write(b'half'); print(flush=True); sys.stdin.read(); file.write(b', whole')"
    )
    command = [sys.executable, "-c", code, str(path)]
    with (
        ending(subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)) as killed,
        ending(subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)) as living,
    ):
        for process in (killed, living):
            assert process.stdout is not None
            process.stdout.readline()
        assert len(names(tmp_path)) == 3
        killed.send_signal(signal.SIGKILL)
        killed.wait()
        write(path)
        assert len(names(tmp_path)) == 3  # the notes, what the living one writes, and x.csv
        living.communicate()
    assert path.read_bytes() == b"half, whole"
    assert names(tmp_path) == [mine.name, "x.csv"]


def test_a_lock_is_held_once_and_a_killed_process_holds_none(tmp_path: Path) -> None:
    path = tmp_path / ".lock"
    code = (
        "import sys; from pathlib import Path; from edge_ser.files import holding\n"
        "with holding(Path(sys.argv[1])) as ours: print(ours, flush=True); sys.stdin.read()"
    )
    command = [sys.executable, "-c", code, str(path)]
    with ending(subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == b"True\n"
        with holding(path) as ours:
            assert not ours
        other.send_signal(signal.SIGKILL)
        other.wait()
    assert path.exists()
    with holding(path) as ours, holding(path) as again:
        assert ours
        assert not again
    assert names(tmp_path) == []
