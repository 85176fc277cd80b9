"""Cells made by hand: what the tables say of them is what pencil and paper say."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from edge_ser.errors import RunError
from edge_ser_train.paper.comparisons import SAMPLES, compare, comparison_tables, differing, mixed_pairs
from edge_ser_train.paper.page import write_page
from edge_ser_train.paper.report import write_reproduction
from edge_ser_train.paper.results import BASELINES, novelty_table, read_cells, results_table, still_to_run
from edge_ser_train.paper.table import write_result

PLACE = "tiny-2-folds"
Confusion = Sequence[Sequence[int]]
# Together [[12, 8], [3, 7]]: recalls 12/20 and 7/10.
TWO_FOLDS: dict[str, dict[str, Confusion]] = {"1": {"ann": [[8, 2], [3, 1]]}, "2": {"bob": [[4, 6], [0, 6]]}}


def write_cell(
    folder: Path, experiment: str, fold: str, seed: int, per_speaker: Mapping[str, Confusion], **changes: Any
) -> dict[str, Any]:
    """Write one cell below ``folder``; a change to None leaves a key out."""
    cell: dict[str, Any] = {
        "corpus": "tiny",
        "labels": ["calm", "angry"],
        "protocol": "folds",
        "fold": fold,
        "speaker_dependent": False,
        "split_sha256": f"{fold:>064}",
        "leaks": [],
        "experiment": experiment,
        "seed": seed,
        "clips": {"train": 60, "dev": 10, "test": sum(sum(map(sum, m)) for m in per_speaker.values())},
        "dev_ua": 0.75,
        "temperature": 1.5,
        "test_ece": 0.1,
        "test_confusion_per_speaker": per_speaker,
        "compactness": {part: {"intra": 1.0, "inter": 4.0, "ratio": 0.25} for part in ("train", "test")},
    }
    cell = {key: value for key, value in (cell | changes).items() if value is not None}
    write_result(folder, f"{PLACE}/{experiment}/{fold}-seed{seed}", cell)
    return cell


def write_baseline(folder: Path) -> None:
    """Write cells as bench/egemaps_svm.py does: no temperature, no ECE, no embedding."""
    for fold, per_speaker in TWO_FOLDS.items():
        cell = write_cell(folder, "egemaps-svm", fold, 0, per_speaker, compactness=None)
        write_result(folder, f"{PLACE}/egemaps-svm/{fold}-seed0", cell | {"temperature": None, "test_ece": None})


def test_folds_are_pooled_and_seeds_averaged(tmp_path: Path) -> None:
    for fold, per_speaker in TWO_FOLDS.items():
        write_cell(tmp_path, "one", fold, 0, per_speaker, dev_ua=0.5 if fold == "1" else 0.8)
        write_cell(tmp_path, "one", fold, 1, {speaker: [[10, 0], [0, 5]] for speaker in per_speaker})
    summary = read_cells(tmp_path)[PLACE, "one"]
    assert (summary.seeds, summary.n_folds, summary.speakers) == ((0, 1), 2, ("ann", "bob"))
    assert summary.ua.value == pytest.approx((0.65 + 1.0) / 2)
    assert summary.wa.value == pytest.approx((19 / 30 + 1.0) / 2)
    assert summary.macro_f1.value == pytest.approx(((24 / 35 + 14 / 25) / 2 + 1.0) / 2)
    # Of seed 0: ann alone 0.8 and 1/4, bob alone 0.4 and 1.
    assert sorted(summary.ua_of_runs) == pytest.approx([0.525, 0.7, 1.0, 1.0])
    # A sixteenth of the draws is seed 0 twice and ann twice, a quarter is seed 1 twice: those are the interval's ends.
    assert (summary.ua.low, summary.ua.high) == pytest.approx((0.525, 1.0))
    alone = summary.of_seeds({0}).ua  # of one seed they are the speakers' own figures
    assert (alone.low, alone.high) == pytest.approx((0.525, 0.7))
    # Weighted by test clips, 14 and 16 of seed 0, 15 and 15 of seed 1.
    assert summary.mean("dev_ua") == pytest.approx((14 * 0.5 + 16 * 0.8 + 30 * 0.75) / 60)
    assert summary.compactness("test") == pytest.approx(0.25)
    second = summary.of_seeds({1})
    assert (second.seeds, len(second.cells), second.ua.value) == ((1,), 2, 1.0)
    assert second.mean("dev_ua") == pytest.approx(0.75)
    assert summary.of_seeds({0}).ua.value == pytest.approx(0.65)


def test_a_seed_that_lacks_folds_is_left_out(tmp_path: Path) -> None:
    for fold, per_speaker in TWO_FOLDS.items():
        write_cell(tmp_path, "one", fold, 0, per_speaker)
    write_cell(tmp_path, "one", "1", 1, {"ann": [[10, 0], [0, 4]]})
    write_cell(tmp_path, "other", "2", 0, {"bob": [[10, 0], [0, 6]]})
    summaries = read_cells(tmp_path)
    assert list(summaries) == [(PLACE, "one")]
    assert summaries[PLACE, "one"].seeds == (0,)
    assert summaries[PLACE, "one"].ua.value == pytest.approx(0.65)


def test_a_repeat_counts_when_it_is_whole_and_compares_with_what_both_have(tmp_path: Path) -> None:
    def write(name: str, seed: int, *folds: str) -> None:
        for fold in folds:
            write_cell(tmp_path, name, fold, seed, TWO_FOLDS["1"] | TWO_FOLDS["2"])

    first, second = ("repeat 1 fold 1", "repeat 1 fold 2"), ("repeat 2 fold 1", "repeat 2 fold 2")
    write("ahead", 0, *first, *second, "repeat 3 fold 1")
    write("ahead", 1, *first)  # a seed with one repeat waits for the other
    write("behind", 0, *first, "repeat 2 fold 1")
    write("begun", 0, "repeat 1 fold 2")
    summaries = {experiment: s for (_, experiment), s in read_cells(tmp_path).items()}
    assert {name: (s.seeds, s.folds) for name, s in summaries.items()} == {
        "ahead": ((0,), frozenset({*first, *second, "repeat 3 fold 1"})),
        "behind": ((0,), frozenset(first)),
    }
    result = compare(summaries["ahead"], summaries["behind"])
    assert result is not None
    assert result.difference.value == 0
    assert summaries["ahead"].of_folds(first).confusion.tolist() == summaries["behind"].confusion.tolist()


def test_a_file_that_is_no_cell_is_refused(tmp_path: Path) -> None:
    write_cell(tmp_path, "one", "1", 0, {"ann": [[1, 0], [0, 1]]}, split_sha256=None)
    with pytest.raises(RunError, match="has no 'split_sha256'"):
        read_cells(tmp_path)


def test_a_clear_difference_has_a_small_p_and_turns_its_sign_with_the_sides(tmp_path: Path) -> None:
    speakers = [f"s{i}" for i in range(8)]
    for seed in (0, 1):
        write_cell(tmp_path, "good", "", seed, {s: [[9 - i % 2, 1 + i % 2], [1, 9]] for i, s in enumerate(speakers)})
        write_cell(tmp_path, "poor", "", seed, {s: [[5, 5], [5 - i % 3, 5 + i % 3]] for i, s in enumerate(speakers)})
    summaries = read_cells(tmp_path)
    good, poor = summaries[PLACE, "good"], summaries[PLACE, "poor"]
    forth, back, same = compare(good, poor), compare(poor, good), compare(good, good)
    assert forth is not None
    assert back is not None
    assert same is not None
    # 68/80 and 72/80 against 40/80 and 47/80.
    assert forth.difference.value == pytest.approx((68 / 80 + 72 / 80) / 2 - (40 / 80 + 47 / 80) / 2)
    assert forth.per_seed == pytest.approx([forth.difference.value] * 2)
    assert forth.p == back.p == pytest.approx(2 / (SAMPLES + 1))  # the smallest that so many draws can show
    assert 0 < forth.difference.low < forth.difference.value < forth.difference.high
    assert (back.difference.value, back.difference.low) == pytest.approx((-forth.difference.value, -forth.difference.high))
    assert (same.difference.value, same.p) == (0.0, 1.0)


def test_a_difference_of_one_speaker_alone_is_not_clear(tmp_path: Path) -> None:
    speakers = [f"s{i}" for i in range(8)]
    write_cell(tmp_path, "one", "", 0, {s: [[9 if s == "s3" else 5, 1 if s == "s3" else 5], [5, 5]] for s in speakers})
    write_cell(tmp_path, "other", "", 0, {s: [[5, 5], [5, 5]] for s in speakers})
    summaries = read_cells(tmp_path)
    result = compare(summaries[PLACE, "one"], summaries[PLACE, "other"])
    assert result is not None
    assert result.difference.low == 0.0
    assert result.p > 0.5  # s3 is not drawn in (7/8)^8 = 34 % of the draws, which are then ties


def test_seeds_that_disagree_widen_the_interval(tmp_path: Path) -> None:
    """Every speaker gains 2 in 20 in seed 0 and loses 1 in seed 1: of other seeds, either may be drawn twice."""
    speakers = [f"s{i}" for i in range(8)]
    for seed, hits in ((0, 7), (1, 4)):
        write_cell(tmp_path, "one", "", seed, {s: [[hits, 10 - hits], [5, 5]] for s in speakers})
        write_cell(tmp_path, "other", "", seed, {s: [[5, 5], [5, 5]] for s in speakers})
    summaries = {name: s for (_, name), s in read_cells(tmp_path).items()}
    both = compare(summaries["one"], summaries["other"])
    assert both is not None
    assert both.per_seed == pytest.approx((0.1, -0.05))
    assert (both.difference.low, both.difference.value, both.difference.high) == pytest.approx((-0.05, 0.025, 0.1))
    assert both.p == pytest.approx(0.5, abs=0.02)  # a quarter of the draws lies below 0
    first = compare(summaries["one"].of_seeds({0}), summaries["other"])
    assert first is not None
    assert (first.difference.low, first.difference.high) == pytest.approx((0.1, 0.1))


def test_rows_say_in_what_they_differ_and_are_corrected_for_their_number(tmp_path: Path) -> None:
    speakers = [f"s{i}" for i in range(8)]
    recipes: dict[str, tuple[int, dict[str, Any], dict[str, Any]]] = {
        "plain": (5, {}, {}),
        "center": (8, {"loss": {"lambda_center": 0.1}}, {}),
        "longer": (5, {"loss": {"lambda_center": 0.1}, "optimizer": {"max_steps": 999}, "selection": {"every_steps": 3}}, {}),
        "pairs": (5, {"loss": {"kind": "cosine_pairs"}}, {"classifier": "SVM (RBF, C = 1)"}),
        "egemaps-svm": (5, {"c_grid": [1, 10]}, {"classifier": "linear SVM", "precision": None}),
    }
    for name, (hits, config, more) in recipes.items():
        for seed in (0, 1):
            changes = {"config": {"seed": seed, **config}, "classifier": "softmax", "precision": "float32"}
            if (name, seed) == ("center", 1):
                changes["precision"] = "bfloat16"
            write_cell(tmp_path, name, "", seed, {s: [[hits, 10 - hits], [5, 5]] for s in speakers}, **(changes | more))
    summaries = read_cells(tmp_path)
    of = {name: s for (_, name), s in summaries.items()}
    assert differing(of["center"], of["plain"]) == ["λ"]
    assert differing(of["longer"], of["plain"]) == ["λ", "length"]
    assert differing(of["pairs"], of["plain"]) == ["loss", "classifier"]
    assert differing(of["plain"], of["egemaps-svm"]) == ["features", "classifier"]
    assert mixed_pairs(of["center"], of["plain"]) == (1, 2)
    assert mixed_pairs(of["plain"], of["egemaps-svm"]) == (0, 2), "what is no run has no precision"
    assert of["center"].precisions == "float32 (1 of 2), bfloat16 (1 of 2)"
    pairs = [("λ", "center", "plain"), *((name, name, "plain") for name in ("longer", "pairs")), ("svm", "plain", "egemaps-svm")]
    text = comparison_tables(summaries, pairs)
    one, several = text.split("**Several things differ**")
    assert "4 rows" in one
    assert "1 have a p below .05, 1 after Holm's correction" in one
    assert "| λ | λ; **precision in 1 of 2 pairs** | +15.0 [+15.0, +15.0] | 0.0001 | 0.000 | +15.0, +15.0 |" in one
    assert [line.split(" | ")[1:3] for line in several.splitlines() if line.startswith("| tiny")] == [
        ["longer", "λ, length"],
        ["pairs", "loss, classifier"],
        ["svm", "features, classifier"],
    ]
    assert several.count(" | 1.0000 | 1.000 | ") == 3
    assert comparison_tables(summaries, []) == ""


def test_a_page_has_its_tables_and_pictures(tmp_path: Path) -> None:
    points = {part: {"points": [[0, 0], [1000, 0]], "classes": [0, 1], "explained_variance": 1.0} for part in ("train", "test")}
    for name in ("setting-1", "setting-2"):
        for fold, per_speaker in TWO_FOLDS.items():
            write_cell(tmp_path / "results", name, fold, 0, per_speaker, pca=points)
    shipped = tmp_path / "shipped"
    shipped.mkdir()
    scores = {"n_clips": 4, "ua": 0.5, "ua_95": [0.2, 0.8], "ece": 0.1, "reliability": [[0, 0, 0], [4, 0.7, 0.5]]}
    result = {"corpus": "far", "split": "all", "protocol": "zero-shot", "labels": ["calm", "sad"], "confusion": [[2, 2], [0, 0]]}
    (shipped / "evaluation-far-all-int8.json").write_text(json.dumps(result | scores))
    change = {"change": 0.1, "change_95": [0.0, 0.2]}
    adapted = [result | scores | {"adaptation": "none"}]
    adapted += [result | scores | change | {"adaptation": name} for name in ("1 utterance an emotion", "2, one label in 8 wrong")]
    (shipped / "adaptation-far-all-int8.json").write_text(json.dumps(adapted))
    write_page(tmp_path / "PAGE.md", tmp_path / "results", shipped)
    linked = re.findall(r"!\[[^]]*\]\(([^)]+)\)", (tmp_path / "PAGE.md").read_text())
    assert sorted(linked) == [
        *(f"results/pictures/{PLACE}-figure{number}.png" for number in (4, 5)),
        "shipped/adaptation.png",
        "shipped/evaluation-far-all-int8.png",
        "shipped/reliability.png",
    ]
    assert all((tmp_path / name).read_bytes().startswith(b"\x89PNG") for name in linked)


def test_what_shares_no_seed_or_has_other_speakers_is_not_compared(tmp_path: Path) -> None:
    matrix = [[5, 5], [5, 5]]
    for experiment, seed, speaker in (("one", 0, "ann"), ("one", 1, "ann"), ("seed-2", 2, "ann"), ("bob", 0, "bob")):
        write_cell(tmp_path, experiment, "", seed, {speaker: matrix})
    write_cell(tmp_path, "seed-1", "", 1, {"ann": [[6, 4], [5, 5]]})
    summaries = {name: s for (_, name), s in read_cells(tmp_path).items()}
    assert compare(summaries["one"], summaries["seed-2"]) is None
    assert compare(summaries["one"], summaries["bob"]) is None
    shared = compare(summaries["one"], summaries["seed-1"])
    assert shared is not None
    assert shared.per_seed == pytest.approx([-0.05])


def test_the_table_shows_a_dash_for_what_a_baseline_has_not(tmp_path: Path) -> None:
    write_baseline(tmp_path)
    for fold, per_speaker in TWO_FOLDS.items():
        write_cell(tmp_path, "one", fold, 0, per_speaker)
        write_cell(tmp_path, "untitled", fold, 0, per_speaker)
    summaries = read_cells(tmp_path)
    text = results_table(summaries, {"one": "The first", **BASELINES, "absent": "Never run"})
    assert text.startswith(f"### {PLACE}\n\n30 test clips of 2 speakers, 2 classes (calm, angry).")
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line.startswith("| ")]
    assert [row[0] for row in rows] == ["recipe", "The first", "openSMILE eGeMAPSv02 + linear SVM"]
    assert rows[1][1:3] == rows[2][1:3] == ["1 × 2", "65.0 [52.5, 70.0]"]
    assert rows[1][5:] == ["75.0", "0.100", "0.25", "0.25", "-"]
    assert rows[2][5:] == ["75.0", "-", "-", "-", "-"]
    assert results_table(summaries, {}) == ""


def test_what_is_still_to_run_is_listed_seed_by_seed(tmp_path: Path) -> None:
    write_baseline(tmp_path)
    for seed in (0, 1):
        for fold, per_speaker in TWO_FOLDS.items():
            write_cell(tmp_path, "mel", fold, seed, per_speaker)
    write_cell(tmp_path, "stft", "1", 0, TWO_FOLDS["1"])  # a fold of two: no seed yet
    titles = {"mel": "Mel", "stft": "STFT"}
    assert still_to_run(read_cells(tmp_path), {"mel": 3, "stft": 1}, titles) == f"- {PLACE}: Mel: 1 seed; STFT: 1 seed"
    assert still_to_run(read_cells(tmp_path), {"mel": 2}, titles) == ""


def test_a_report_can_be_made_of_a_baseline_alone(tmp_path: Path) -> None:
    write_baseline(tmp_path)
    path = write_reproduction(tmp_path, [PLACE], quick=False)
    assert path is not None
    report = path.read_text()
    assert "| openSMILE eGeMAPSv02 + linear SVM | 1 × 2 | 65.0 [52.5, 70.0] |" in report
    assert not list(tmp_path.glob("*.png"))


def test_novelty_is_averaged_and_paired_by_speaker_and_seed(tmp_path: Path) -> None:
    def areas(ann: float, bob: float) -> list[dict[str, Any]]:
        return [
            {"auroc_per_speaker": {s: {who: area} for s in ("distance", "confidence")}}
            for who, area in (("ann", ann), ("bob", bob))
        ]

    of = {("one", 0): areas(0.8, 0.6), ("one", 1): areas(0.9, 0.9), ("other", 0): areas(0.7, 0.5), ("other", 1): (None, None)}
    for (name, seed), measured in of.items():
        for (fold, per_speaker), novelty in zip(TWO_FOLDS.items(), measured, strict=True):
            write_cell(tmp_path, name, fold, seed, per_speaker, novelty=novelty)
    text = novelty_table(read_cells(tmp_path), {"one": "One", "other": "Other"}, [("one against other", "one", "other")])
    assert "| One | 2 | 80.0 [60.0, 90.0] | 80.0 [60.0, 90.0] |" in text
    assert "| Other | 1 | 60.0 [50.0, 70.0] |" in text  # the seed without figures is left out
    assert "| one against other | 1 | +10.0 [+10.0, +10.0] |" in text  # on the seed that both have
    write_cell(tmp_path / "none", "one", "1", 0, TWO_FOLDS["1"])
    assert novelty_table(read_cells(tmp_path / "none"), {"one": "One"}, []) == ""
