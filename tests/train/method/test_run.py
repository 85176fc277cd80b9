"""The run folder: one process at a time, and what lies in it is what was written."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from safetensors.torch import save

from edge_ser.errors import RunError
from edge_ser_train.method import run as runs
from edge_ser_train.method.weights import load_tensors
from tests.training import refused


def test_two_processes_never_train_in_one_folder(tiny_run: Path, tiny_data: Path, tmp_path: Path) -> None:
    begun = tmp_path / "run"
    shutil.copytree(tiny_run, begun)
    new = tmp_path / "new"
    for folder, arguments in ((begun, ["--resume"]), (new, ["--data", tiny_data, "--corpus", "tiny"])):
        folder.mkdir(exist_ok=True)
        before = sorted(path.name for path in folder.iterdir())
        with runs.held(folder):
            assert refused("train", "--out", folder, *arguments).startswith(f"1 another process trains in {folder}")
        assert sorted(path.name for path in folder.iterdir()) == before


def test_a_split_that_would_be_written_over_is_a_mistake_of_usage(tiny_run: Path, tiny_data: Path, tmp_path: Path) -> None:
    shutil.copy(tiny_run / runs.SPLIT, tmp_path)
    where = ("--data", tiny_data, "--corpus", "tiny", "--split", tmp_path / runs.SPLIT, "--out", tmp_path)
    complaint = refused("train", *where)
    assert complaint.startswith("2 ")
    assert "is read, too" in complaint


@pytest.mark.parametrize("name", [runs.CHECKPOINT, runs.MODEL])
def test_a_flipped_byte_is_refused(tiny_run: Path, tmp_path: Path, name: str) -> None:
    content = (tiny_run / name).read_bytes()
    path = tmp_path / name
    whole = load_tensors(tiny_run / name)
    header = 8 + int.from_bytes(content[:8], "little")
    places = {*range(0, header, 47), *range(header, len(content), len(content) // 40), header - 1, header, len(content) - 1}
    for at in sorted(places):
        path.write_bytes(content[:at] + bytes([content[at] ^ 0x10]) + content[at + 1 :])
        with pytest.raises(RunError):
            load_tensors(path)
    path.write_bytes(content)
    assert load_tensors(path)[1] == whole[1]
    path.write_bytes(save(whole[0], {"edge_ser": json.dumps(whole[1])}))
    with pytest.raises(RunError, match="checksum"):
        load_tensors(path)


def test_resume_refuses_a_damaged_checkpoint(tiny_run: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    shutil.copytree(tiny_run, folder)
    content = bytearray((folder / runs.CHECKPOINT).read_bytes())
    content[-1000] ^= 1
    (folder / runs.CHECKPOINT).write_bytes(content)
    complaint = refused("train", "--out", folder, "--resume")
    assert "checkpoint.safetensors is damaged: it does not hold what its checksum says" in complaint
    assert f"--set optimizer.init={folder}" in complaint
