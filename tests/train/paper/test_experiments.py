from __future__ import annotations

import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from edge_ser.errors import ConfigError, RunError
from edge_ser_train.corpora.clips import Clip
from edge_ser_train.corpora.tables import read_corpus
from edge_ser_train.paper.cells import compactness, novelty, pca, plan_cells, unfinished
from edge_ser_train.paper.experiments import EXPERIMENTS, FIGURES, FOUR, PLANS, TABLES
from edge_ser_train.paper.results import read_cells
from edge_ser_train.paper.running import Outcome, run_cell
from edge_ser_train.paper.table import gather, read_results, write_result
from tests.training import edge_ser, refused, setting


def reproduce(data: Path, out: Path, *arguments: str) -> str:
    where = ("--data", data, "--corpus", "tiny", "--out", out)
    return edge_ser("reproduce", *where, "--quick", *setting("precision=float32"), *arguments)


@pytest.fixture(scope="module")
def reproduced(tiny_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every kind of experiment once, quick but really trained."""
    out = tmp_path_factory.mktemp("reproduced")
    names = ("triplet-svm", "cosine-svm", "separation", "edge")
    reproduce(tiny_data, out, "--table", "1", "--figure", "4", *(x for name in names for x in ("--experiment", name)))
    return out


def test_cells_report_and_pictures_are_there(reproduced: Path) -> None:
    summaries = read_cells(reproduced)
    found = {experiment for _, experiment in summaries}
    assert found == {"setting-1", "setting-2", "triplet-svm", "cosine-svm", "separation", "edge"}
    report = (reproduced / "report-tiny-4-fixed.md").read_text()
    assert "Quick mode" in report
    assert "they do not compare" in report
    for name in ("figure4", "figure5", "table1"):
        picture = f"tiny-4-fixed-{name}.png"
        assert f"]({picture})" in report
        assert (reproduced / picture).read_bytes().startswith(b"\x89PNG")
    cell = json.loads((reproduced / "cells/tiny-4-fixed/triplet-svm/quick-seed0.json").read_text())
    assert cell["classifier"].startswith("SVM")
    assert cell["clips"] == {"train": 24, "dev": 8, "test": 8}
    assert str(reproduced) not in json.dumps(cell)  # no path of this machine


def test_a_second_call_trains_nothing_and_other_settings_are_refused(reproduced: Path, tiny_data: Path) -> None:
    before = {p: p.stat().st_mtime_ns for p in (reproduced / "runs").rglob("model.safetensors")}
    assert "2 cells (2 experiments), 2 done before" in reproduce(tiny_data, reproduced, "--table", "1")
    assert before == {p: p.stat().st_mtime_ns for p in (reproduced / "runs").rglob("model.safetensors")}
    other = plan_cells(tiny_data, "tiny", None, ["setting-1"], 1, settings=("optimizer.lr=1e-4",), quick=True)
    with pytest.raises(RunError, match="holds the results of other settings"):
        unfinished(reproduced, other)


def test_gathered_results_count_and_say_the_same(reproduced: Path, tiny_data: Path, tmp_path: Path) -> None:
    shutil.copytree(reproduced / "cells", tmp_path / "cells")
    before = read_results(reproduced)
    assert gather(tmp_path) == len(before) == 6
    assert not list(tmp_path.glob("cells/**/*.json"))
    assert read_results(tmp_path) == before
    assert list(read_results(tmp_path)) == list(before)
    cells = plan_cells(tiny_data, "tiny", None, ["setting-1", "setting-2", "setting-3"], 1, quick=True)
    assert [cell.experiment for cell in unfinished(tmp_path, cells)] == ["setting-3"]
    name, result = next(iter(before.items()))
    write_result(tmp_path, name, result | {"dev_ua": 0.125, "fold": "7", "leaks": ["1e3", 'a, "b"'], "note": None})
    changed = read_results(tmp_path)
    gather(tmp_path)
    assert read_results(tmp_path) == changed
    assert len(changed) == 7  # another fold is another cell
    (tmp_path / "cells.csv").write_text("corpus,labels\ntiny,[]\n")
    with pytest.raises(RunError, match="row 1 has no 'protocol'"):
        read_results(tmp_path)


def test_results_from_before_a_setting_existed_count(reproduced: Path, tiny_data: Path, tmp_path: Path) -> None:
    cell = plan_cells(tiny_data, "tiny", None, ["setting-1"], 1, quick=True)[0]
    result = json.loads((reproduced / "cells" / f"{cell.name}.json").read_text())
    assert result["config"]["augment"].pop("denoise") == 0
    write_result(tmp_path, cell.name, result)
    assert unfinished(tmp_path, [cell]) == []
    write_result(tmp_path, cell.name, result | {"config": result["config"] | {"precision": "auto"}})  # not resolved then
    assert unfinished(tmp_path, [cell]) == []
    for other in ({"augment": {"denoise": 0.5}}, {"precision": "bfloat16"}):
        write_result(tmp_path, cell.name, result | {"config": result["config"] | other})
        with pytest.raises(RunError, match="holds the results of other settings"):
            unfinished(tmp_path, [cell])


def test_a_cell_that_was_cut_goes_on_to_the_same_figures(reproduced: Path, tiny_data: Path, tmp_path: Path) -> None:
    shutil.copytree(reproduced / "runs/tiny-4-fixed/setting-2", tmp_path / "runs/tiny-4-fixed/setting-2")
    reproduce(tiny_data, tmp_path, "--setting", "2")
    name = "cells/tiny-4-fixed/setting-2/quick-seed0.json"
    assert (tmp_path / name).read_bytes() == (reproduced / name).read_bytes()


@pytest.mark.slow
def test_two_jobs_give_what_one_gives(tiny_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: 2)  # one thread a job, as here: more of them add up in another order
    found = []
    for jobs in ("1", "2"):
        reproduce(tiny_data, tmp_path / jobs, "--table", "1", "--jobs", jobs)
        cells = read_results(tmp_path / jobs)
        assert len(cells) == 2
        found.append({name: (cell["test_confusion_per_speaker"], cell["config"]) for name, cell in cells.items()})
    assert found[0] == found[1]


def test_the_grid_is_the_papers(data_dir: Path, tiny_data: Path, tmp_path: Path) -> None:
    assert {name for names in (*FIGURES.values(), *TABLES.values()) for name in names} <= EXPERIMENTS.keys()
    cells = plan_cells(data_dir, "cremad", None, ["setting-4", "alpha-0.1", "edge"], seeds=2)
    assert len(cells) == 6
    assert cells[0].config.front_end == "logstft-paper"
    assert cells[2].config.loss.alpha == 0.1
    assert cells[2].config.front_end == "logmel-paper"
    assert cells[5].config.front_end == "logmel-v1"
    assert cells[5].config.seed == 1
    assert len(plan_cells(data_dir, "emodb", 7, ["setting-1"], 1)) == 10
    alone, later, both = plan_cells(data_dir, "cremad", None, ["ablation-none", "edge-longer", "ablation-with-emodb"], 1)
    assert alone.split.sha256 == later.split.sha256 != both.split.sha256
    assert both.split.train[: len(alone.split.train)] == alone.split.train
    assert {c.corpus for c in both.split.train[len(alone.split.train) :]} == {"emodb"}
    assert (both.split.dev, both.split.test) == (alone.split.dev, alone.split.test)
    with pytest.raises(RunError, match=r"needs the run .*edge/all-seed0, which is not finished; run that experiment first"):
        run_cell(later, data_dir, tmp_path, tmp_path, wait_s=0)
    assert not any(tmp_path.iterdir())
    with pytest.raises(ConfigError, match="did you mean 'setting-1'"):
        plan_cells(tiny_data, "tiny", None, ["seting-1"], 1)
    with pytest.raises(ConfigError, match="expected 4 or 7"):
        plan_cells(data_dir, "emodb", 5, ["setting-1"], 1)


def test_nothing_chosen_is_a_usage_error(tiny_data: Path, tmp_path: Path) -> None:
    complaint = refused("reproduce", "--data", tiny_data, "--corpus", "tiny", "--out", tmp_path)
    assert complaint.startswith("2 ")
    assert "give --setting, --figure, --table, --experiment, --ablations or --all" in complaint


def test_compactness_and_pca_of_known_points() -> None:
    z = np.array([[0, 0, 0], [2, 0, 0], [10, 0, 0], [12, 0, 0.0]], dtype=np.float32)
    y = np.array([0, 0, 1, 1])
    assert compactness(z, y) == {"intra": 1.0, "inter": 10.0, "ratio": 0.1}
    plane = pca(z, y)
    assert [abs(p[0]) for p in plane["points"]] == [6000, 4000, 4000, 6000]
    assert plane["explained_variance"] == pytest.approx(1)


def test_novelty_ranks_each_speaker_alone() -> None:
    def clips(*speakers: str) -> list[Clip]:
        return [Clip("tiny", Path(), speaker, "", "test") for speaker in speakers]

    centres = np.array([[0, 0], [10, 0]], dtype=np.float32)
    known = np.array([[1, 0], [9, 0], [2, 0], [0, 9]], dtype=np.float32)  # 1, 1, 2 from a centre; bob's lies 9 off
    others = np.array([[5, 0], [0, 1], [0, 8]], dtype=np.float32)  # 5 and 1; bob's lies 8 off
    sure, unsure = np.array([[4, 0]], dtype=np.float32), np.array([[1, 0]], dtype=np.float32)
    answers = {"known": (np.repeat(sure, 4, axis=0), known), "others": (np.repeat(unsure, 3, axis=0), others)}
    who = {"known": clips("ann", "ann", "ann", "bob"), "others": clips("ann", "ann", "bob")}
    result = novelty(answers, who, centres, temperature=1.0)
    assert result["clips"] == 3
    # ann: 5 is beyond all three, 1 ties with two and is nearer than 2: (3 + 1) / 6. bob: nearer than what is known.
    assert result["auroc_per_speaker"]["distance"] == pytest.approx({"ann": 2 / 3, "bob": 0})
    assert result["auroc_per_speaker"]["confidence"] == {"ann": 1, "bob": 1}
    alone = novelty(answers, who | {"others": clips("ann", "ann", "cid")}, centres, temperature=1.0)
    assert set(alone["auroc_per_speaker"]["distance"]) == {"ann"}  # nothing to compare for bob and cid


@pytest.mark.parametrize("protocol", ["leave-one-speaker-out", "paper"])
def test_a_cell_measures_novelty_on_what_its_new_speakers_say_without_a_label(
    tiny_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, protocol: str
) -> None:
    monkeypatch.setitem(PLANS, ("tiny", 2), replace(PLANS["cremad", 4], labels=FOUR[:2]))
    cell = plan_cells(tiny_data, "tiny", None, ["setting-2"], 1, protocol, quick=True)[0]
    assert run_cell(cell, tiny_data, tmp_path, tmp_path / "cache", wait_s=0) is Outcome.DONE
    measured = read_results(tmp_path)[cell.name]
    if protocol == "paper":  # known speakers: nothing to say of new ones
        assert "novelty" not in measured
        return
    spoken = [c for c in read_corpus(tiny_data, "tiny") if c.speaker == cell.split.test[0].speaker]
    assert measured["novelty"]["clips"] == sum(c.emotion not in FOUR[:2] for c in spoken) > 0
    areas = measured["novelty"]["auroc_per_speaker"]
    assert set(areas["distance"]) == set(areas["confidence"]) == {spoken[0].speaker}
    assert all(0 <= area <= 1 for of in areas.values() for area in of.values())
