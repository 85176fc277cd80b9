"""`edge-ser label --engine ray`: the same rows, whatever happens to actors and machines."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("pyarrow")
pytest.importorskip("ray")

from tests.commanding import ending
from tests.runtime.archive.conftest import TROUBLED, Archive, complaint, environment, label, require_same, rows, wait_for

pytestmark = pytest.mark.timing  # Ray gives up starting where other tests take the processors


@pytest.fixture
def cluster() -> Iterator[Any]:
    """A cluster of a head without a CPU; machines can be added to it and killed."""
    from ray.cluster_utils import Cluster

    with pytest.MonkeyPatch.context() as patch:
        for name, value in environment(5).items():  # the actors get what the machines have
            patch.setenv(name, value)
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        cluster: Any = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
        try:
            yield cluster
        finally:
            cluster.shutdown()


def test_as_many_actors_as_cpus(archive: Archive, tmp_path: Path) -> None:
    label(archive.folder, "-o", tmp_path / "out", "--engine", "ray", unit_files=5)
    require_same(tmp_path / "out", archive)


def test_more_actors_than_cpus(archive: Archive, tmp_path: Path, cluster: Any) -> None:
    cluster.add_node(num_cpus=1)
    label(archive.folder, "-o", tmp_path / "out", "--engine", "ray", "--address", cluster.address, "--jobs", 3, unit_files=5)
    require_same(tmp_path / "out", archive)


def test_the_other_engine_goes_on(archive: Archive, tmp_path: Path) -> None:
    label(archive.folder / "a", "-o", tmp_path / "out", unit_files=7)
    label(archive.folder, "-o", tmp_path / "out", "--engine", "ray", "--jobs", 1)
    require_same(tmp_path / "out", archive)


def test_actors_that_end(make_archive: Callable[..., Archive], tmp_path: Path) -> None:
    archive = make_archive(named=["a/always.wav", "a/once.wav", "b/after.wav"])
    label(archive.folder, "-o", tmp_path / "out", "--engine", "ray", "--jobs", 2, unit_files=16, troubled=True)
    killer = str(archive.folder / "a/always.wav")
    require_same(tmp_path / "out", archive, also_refused=[killer])
    (error,) = [row["error"] for row in rows(tmp_path / "out") if row["error"]]
    assert error.startswith(f"{killer}: the process that labelled it ended 3 times: ")


def ancestors(pid: int) -> Iterator[int]:
    while pid > 1:
        yield pid
        pid = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def test_a_machine_that_dies(make_archive: Callable[..., Archive], tmp_path: Path, cluster: Any) -> None:
    archive, out = make_archive(named=["c/wait.wav"]), tmp_path / "out"
    machines = [cluster.add_node(num_cpus=1) for _ in range(2)]
    waits = archive.folder / "c/wait.pid"
    command = [*TROUBLED, "label", str(archive.folder), "-o", str(out), "--engine", "ray", "--address", cluster.address]
    with ending(subprocess.Popen(command, env=environment(5), text=True, stderr=subprocess.PIPE)) as process:
        try:
            wait_for(lambda: waits.exists() and waits.read_text() and list(out.glob("*.parquet")))
            family = set(ancestors(int(waits.read_text())))
            (dying,) = [m for m in machines if m.all_processes["raylet"][0].process.pid in family]
            waits.unlink()
            cluster.remove_node(dying, allow_graceful=False)
            wait_for(waits.exists)  # it came to the other machine
            waits.with_suffix(".go").touch()
            _, complaints = process.communicate(timeout=120)
        finally:
            process.kill()
    assert process.returncode == 0, complaints
    require_same(out, archive)


def test_ctrl_c(make_archive: Callable[..., Archive], tmp_path: Path) -> None:
    archive, out = make_archive(named=["c/wait.wav"]), tmp_path / "out"
    command = [*TROUBLED, "label", str(archive.folder), "-o", str(out), "--engine", "ray", "--jobs", "2"]
    process = subprocess.Popen(command, env=environment(5), text=True, start_new_session=True, stderr=subprocess.PIPE)
    with ending(process):
        wait_for(lambda: (archive.folder / "c/wait.pid").exists() and list(out.glob("*.parquet")))
        os.kill(process.pid, signal.SIGINT)
        _, complaints = process.communicate(timeout=120)
    assert process.returncode == 130
    assert "the same command goes on" in complaints
    (archive.folder / "c/wait.go").touch()
    label(archive.folder, "-o", out)
    require_same(out, archive)


def test_nobody_outside_can_reach_it(make_archive: Callable[..., Archive], tmp_path: Path) -> None:
    archive = make_archive(named=["c/wait.wav"])
    command = [*TROUBLED, "label", str(archive.folder), "-o", str(tmp_path / "out"), "--engine", "ray", "--jobs", "1"]
    with ending(subprocess.Popen(command, env=environment(5) | {"EDGE_SER_MARK": str(tmp_path)})) as process:
        try:
            wait_for((archive.folder / "c/wait.pid").exists)
            addresses = listening(f"EDGE_SER_MARK={tmp_path}")
            (archive.folder / "c/wait.go").touch()
            assert process.wait(120) == 0
        finally:
            process.kill()
    assert addresses
    assert addresses <= {"0100007F", "0000000000000000FFFF00000100007F"}


def listening(mark: str) -> set[str]:
    """Return the addresses, as the kernel writes them, at which processes with ``mark`` in their environment listen."""
    inodes = set()
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # ended, or not ours
            if mark.encode() in (process / "environ").read_bytes().split(b"\0"):
                inodes |= {str(link.readlink())[8:-1] for link in (process / "fd").iterdir() if "socket:" in str(link.readlink())}
    rows = [line.split() for kind in ("tcp", "tcp6") for line in Path(f"/proc/net/{kind}").read_text().splitlines()[1:]]
    return {row[1].partition(":")[0] for row in rows if row[3] == "0A" and row[9] in inodes}


def test_no_cluster_is_one_line(archive: Archive, tmp_path: Path) -> None:
    done = label(archive.folder, "-o", tmp_path / "out", "--engine", "ray", "--address", "127.0.0.1:9", status=1)
    assert "no Ray cluster at 127.0.0.1:9" in complaint(done)
