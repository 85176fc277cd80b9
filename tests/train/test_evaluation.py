from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner

from edge_ser.cli import cli
from edge_ser.errors import CorpusError, EdgeSerError, RunError
from edge_ser_train.evaluation import evaluate_model, evaluate_run, format_evaluation
from edge_ser_train.run import MODEL, load_run


def test_run_and_exported_file_score_alike(tiny_run: Path, tiny_model: Path, tiny_data: Path, tmp_path: Path) -> None:
    in_torch = evaluate_run(tiny_run, tiny_data, "tiny", "test", tmp_path)
    in_runtime = evaluate_model(tiny_model, tiny_data, "tiny", "test")
    assert in_torch["confusion"] == in_runtime["confusion"]
    assert in_torch["ua_95"] == in_runtime["ua_95"]
    assert in_torch["ece"] == pytest.approx(in_runtime["ece"], abs=1e-4)
    assert "speaker" in in_torch["protocol"]
    assert evaluate_model(tiny_model, tiny_data, "tiny", "train")["protocol"] == "seen in training"


def test_the_command_prints_every_score(tiny_model: Path, tiny_data: Path) -> None:
    arguments = ["evaluate", str(tiny_model), "--data", str(tiny_data), "--corpus", "tiny"]
    text = CliRunner().invoke(cli, arguments, catch_exceptions=False).output
    for word in ("UA", "WA", "macro-F1", "ECE", "95 % interval over speakers", "neutral", "8 clips of 1 speakers"):
        assert word in text
    record = json.loads(CliRunner().invoke(cli, [*arguments, "--json"], catch_exceptions=False).stdout.splitlines()[-1])
    assert {"ua", "wa", "macro_f1", "confusion", "ua_95", "protocol", "n_clips"} <= record.keys()


def test_scores_by_gender(tiny_model: Path, tiny_data: Path, tmp_path: Path) -> None:
    assert evaluate_model(tiny_model, tiny_data, "tiny", "test")["by_gender"] == {}
    shutil.copytree(tiny_data / "tiny", tmp_path / "voices")
    table = tmp_path / "voices" / "labels.csv"
    header, *rows = table.read_text().splitlines()
    genders = {"s0": "female", "s1": "male", "s2": "female"}
    rows = [row.replace(f"{s},,", f"{s},{genders.get(s, '')},") for row in rows for s in [row.split(",")[1]]]
    table.write_text("\n".join([header, *rows]) + "\n")
    result = evaluate_model(tiny_model, tmp_path, "voices", "all")
    assert {gender: of["n_clips"] for gender, of in result["by_gender"].items()} == {"female": 16, "male": 8}
    assert all(0 <= of["ua"] <= 1 for of in result["by_gender"].values())
    text = format_evaluation(result)
    assert f"    female  {result['by_gender']['female']['ua']:6.1%}  16 clips\n" in text
    table.write_text("\n".join([header, *(row for row in rows if "female" in row)]) + "\n")
    alone = evaluate_model(tiny_model, tmp_path, "voices", "all")
    assert alone["by_gender"] == {"female": {"n_clips": 16, "ua": alone["ua"]}}
    assert alone["by_gender"]["female"] == result["by_gender"]["female"]


def test_mistakes(tiny_run: Path, tiny_model: Path, tiny_data: Path, tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match="no corpus 'cremad'"):
        evaluate_model(tiny_model, tiny_data, "cremad", "test")
    with pytest.raises(RunError, match="does not exist"):
        load_run(tmp_path)
    (tmp_path / MODEL).write_bytes((tiny_run / MODEL).read_bytes()[:1000])
    with pytest.raises(RunError, match="damaged"):
        load_run(tmp_path)
    (tmp_path / MODEL).write_bytes((tiny_run / MODEL).read_bytes())
    with pytest.raises(EdgeSerError, match=r"config\.toml"):
        load_run(tmp_path)
    text = (tiny_run / "config.toml").read_text()
    (tmp_path / "config.toml").write_text(text.replace("batch_norm = true", "batch_norm = false"))
    with pytest.raises(RunError, match="another network"):
        load_run(tmp_path)
    (tmp_path / "config.toml").write_text(text.replace("logmel-v1", "logstft-v1"))
    with pytest.raises(RunError, match="disagree"):
        load_run(tmp_path)
