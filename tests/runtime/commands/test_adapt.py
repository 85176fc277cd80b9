"""What adapt refuses before anybody speaks, and numbers that are none."""

from __future__ import annotations

from pathlib import Path

import pytest

from edge_ser.files import holding
from tests.commanding import complaint, run


def test_a_profile_that_cannot_be_written_is_refused_before_anybody_speaks(speech: Path, tmp_path: Path) -> None:
    path = tmp_path / "nowhere" / "me.json"
    done = run("adapt", "--record", "--source", speech, "--profile", path)
    assert str(path) in complaint(done)
    assert done.stdout == b""


def test_a_profile_is_changed_by_one_process_at_a_time(speech: Path, tmp_path: Path) -> None:
    path = tmp_path / "me.json"
    with holding(tmp_path / ".me.json.adapting"):
        assert "another process is changing" in complaint(run("adapt", "happy", speech, "--profile", path))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("arguments", [["benchmark", "--duration"], ["predict", "x.wav", "--min-speech"], ["serve", "--idle"]])
def test_nan_is_no_number_of_a_range(arguments: list[str]) -> None:
    done = run(*arguments, "nan")
    assert (done.returncode, b"nan is not in the range" in done.stderr) == (2, True)
