"""The command-line verbs of the training side; torch is imported when they run, not when they are listed."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path

import click

from edge_ser.commands._options import require_apart
from edge_ser.errors import require_extra
from edge_ser_train.method.config import PRESETS

_TORCH = ("torch", "safetensors", "matplotlib", "tqdm", "tomli_w")

_data_option = click.option(
    "--data",
    envvar="EDGE_SER_DATA",
    type=click.Path(path_type=Path),
    help="Folder that holds the corpora, one NAME/labels.csv each [env: EDGE_SER_DATA].",
)
_cache_option = click.option(
    "--cache", type=click.Path(path_type=Path), help="Folder for cached features; default: the user's cache."
)


@click.command(short_help="Train a model on labelled speech.")
@_data_option
@click.option("--corpus", "corpora", multiple=True, metavar="NAME", help="Corpus below --data; may be given several times.")
@click.option("--preset", type=click.Choice(PRESETS), help="paper: Dai et al.; edge: unseen speakers; small: for few speakers.")
@click.option("--config", "config_file", type=click.Path(path_type=Path), help="TOML file instead of a preset.")
@click.option(
    "--protocol",
    default="fixed",
    show_default=True,
    metavar="NAME",
    help="How the first corpus is parted: fixed, folds, leave-one-speaker-out, leave-one-session-out, paper.",
)
@click.option("--fold", default="", metavar="NAME", help="Which of the protocol's splits: a speaker, a session, a fold.")
@click.option("--split", "split_file", type=click.Path(path_type=Path), help="Split file (JSON) instead of a protocol.")
@click.option("--set", "settings", multiple=True, metavar="NAME=VALUE", help="Change one setting, such as loss.lambda_center=0.")
@click.option("--out", required=True, type=click.Path(path_type=Path), help="Folder of the run.")
@click.option("--resume", is_flag=True, help="Continue the run in --out from its last checkpoint.")
@_cache_option
def train(
    data: Path | None,
    corpora: tuple[str, ...],
    preset: str | None,
    config_file: Path | None,
    protocol: str,
    fold: str,
    split_file: Path | None,
    settings: tuple[str, ...],
    out: Path,
    resume: bool,
    cache: Path | None,
) -> None:
    """Train the network of Dai et al. (ICASSP 2019) with weighted softmax + center loss.

    Writes the best weights (dev UA), configuration, metrics and a report with pictures into --out. Ctrl-C stops after the
    current step; --resume continues, and ends with the same weights as a run that was never stopped. Several processes or
    GPUs: torchrun --nproc-per-node 2 --no-python edge-ser train ...
    """
    require_extra("train", *_TORCH)
    from edge_ser.errors import ConfigError, RunError
    from edge_ser_train.corpora.splits import training_split
    from edge_ser_train.corpora.tables import label_map_of
    from edge_ser_train.evaluate.pictures import write_report
    from edge_ser_train.method import processes
    from edge_ser_train.method import run as runs
    from edge_ser_train.method.config import load_config, load_preset
    from edge_ser_train.method.dataset import default_cache_dir
    from edge_ser_train.method.loop import Trainer, train_run
    from edge_ser_train.method.model import with_settled_precision
    from edge_ser_train.paper.baselines import criterion

    joined = click.get_current_context().with_resource(processes.joined())
    rank = joined.rank

    def say(line: str) -> None:
        if rank == 0:
            click.echo(line, err=True)

    if preset and config_file:
        raise click.UsageError("give --preset or --config, not both")
    if resume and not (out / runs.CONFIG).is_file():
        raise RunError(f"{out} holds no run to resume; start one without --resume")
    as_saved = resume and not (preset or config_file or settings)
    if as_saved:
        config = load_config(out / runs.CONFIG)
    else:
        config = (load_config(config_file) if config_file else load_preset(preset or "edge")).with_settings(settings)
        config = with_settled_precision(config, joined.device())
    if resume:
        saved = runs.read_data(out)
        # The environment names a usual place; what the run says and finds there goes before it.
        given = click.get_current_context().get_parameter_source("data") is click.core.ParameterSource.COMMANDLINE
        if not given and (data is None or Path(saved["data"]).is_dir()):
            data = Path(saved["data"])
        corpora = corpora or tuple(saved["corpora"])
        split_file = split_file or (out / runs.SPLIT if (out / runs.SPLIT).is_file() else None)
    if data is None:
        raise click.UsageError("missing --data (or EDGE_SER_DATA): the folder that holds the corpora")
    if not corpora:
        raise click.UsageError("missing --corpus: a folder name below --data")
    if len(set(corpora)) != len(corpora):
        raise ConfigError(f"--corpus names {', '.join(corpora)}; expected each corpus once")

    if not as_saved:
        config = replace(config, label_map=label_map_of(corpora, config.labels) | config.label_map)
    require_apart([out / runs.SPLIT] if not resume else [], [split_file])
    minimised = criterion(config.loss)
    found = training_split(data, corpora, config.labels, config.label_map, protocol, fold, split_file)
    described = runs.describe_data(found, data, corpora, config)
    if rank == 0:
        runs.open_run(config, described, out, resume)
        click.get_current_context().with_resource(runs.held(out))
    for part in ("train", "dev"):
        d = described[part]
        per_label = ", ".join(f"{label} {n}" for label, n in d["per_label"].items())
        say(f"{part}: {d['clips']} clips of {d['speakers']} speakers ({per_label})")
    if found.left_out:
        left = ", ".join(f"{name} {n}" for name, n in found.left_out.items())
        say(f"left out, not among the labels: {left}")

    trainer = Trainer(config, found, out, cache or default_cache_dir(), say, minimised)
    report = train_run(trainer, described, resume, say)
    if trainer.progress.step < config.optimizer.max_steps:
        say(f"stopped at step {trainer.progress.step}; continue with: edge-ser train --out {out} --resume")
        raise SystemExit(130)
    if report is None:
        return
    write_report(report, trainer.metrics, out)
    low, high = report["dev"]["ua_95"]
    click.echo(
        f"{out}: dev UA {report['dev']['ua']:.1%} [{low:.1%}, {high:.1%}] at step {report['best_step']} of {report['steps']}, "
        f"temperature {report['temperature']:.2f}, {report['seconds'] / 60:.0f} min"
    )


@click.command(short_help="Score a run or a model file on a corpus.")
@click.argument("run_or_model", type=click.Path(path_type=Path))
@_data_option
@click.option("--corpus", metavar="NAME", help="Corpus below --data.")
@click.option("--split", default="test", show_default=True, metavar="NAME", help="train, dev, test, or all.")
@click.option("--leave-corpus-out", is_flag=True, help="Every corpus below --data not trained on, without and with calibration.")
@click.option("--robustness", is_flag=True, help="The same clips as commands in rooms, in noise, cut, clipped, by telephone.")
@click.option("--rejection", is_flag=True, help="How much sound without speech is answered no_speech, and how much speech.")
@click.option("--calibration", is_flag=True, help="Without and with a microphone calibrated on a minute of other clips.")
@click.option("--adaptation", is_flag=True, help="Without and with adaptation to the speaker by some other clips of theirs.")
@click.option("--json", "as_json", is_flag=True, help="The scores as JSON, one object a line.")
@click.option("--record", is_flag=True, help="Write the scores into the model file itself; its weights stay as they are.")
@_cache_option
def evaluate(
    run_or_model: Path,
    data: Path | None,
    corpus: str | None,
    split: str,
    leave_corpus_out: bool,
    robustness: bool,
    rejection: bool,
    calibration: bool,
    adaptation: bool,
    as_json: bool,
    record: bool,
    cache: Path | None,
) -> None:
    """Print UA, WA, macro-F1, the confusion matrix and 95 % intervals over speakers (over clips where there is one speaker).

    RUN_OR_MODEL is the folder of a training run, or an exported model file. A run is scored in torch; the scores are kept in it,
    with a picture of confusion and confidence, and travel with an export. A file is scored through the runtime, as a device
    would; with --record `edge-ser info` tells its scores from then on. Classes that the corpus lacks count nowhere.
    """
    if run_or_model.is_dir():
        require_extra("train", *_TORCH)
    if not run_or_model.exists():
        from edge_ser.errors import RunError

        raise RunError(f"{run_or_model} does not exist; expected the folder of a training run, or a model file")
    from edge_ser.model.scores import record_score
    from edge_ser_train.evaluate import evaluation
    from edge_ser_train.evaluate import personal as tuning
    from edge_ser_train.evaluate.robustness import robustness as robustness_of

    if data is None:
        raise click.UsageError("missing --data (or EDGE_SER_DATA): the folder that holds the corpora")
    if leave_corpus_out and corpus:
        raise click.UsageError("--leave-corpus-out looks at every other corpus; give it without --corpus")
    if leave_corpus_out + robustness + rejection + calibration + adaptation > 1:
        raise click.UsageError("give one of --leave-corpus-out, --robustness, --rejection, --calibration, --adaptation")
    if record and (run_or_model.is_dir() or leave_corpus_out or robustness or rejection or calibration or adaptation):
        raise click.UsageError("--record is for the scores of a model file on one --corpus")
    if leave_corpus_out:
        results = tuning.leave_corpus_out(run_or_model, data, cache)
        text, name = evaluation.format_comparison(results, "calibration"), "leave-corpus-out"
    elif corpus is None:
        raise click.UsageError("missing --corpus: a folder name below --data")
    elif robustness:
        results = robustness_of(run_or_model, data, corpus, split)
        text, name = evaluation.format_comparison(results, "condition"), f"robustness-{corpus}-{split}"
    elif rejection:
        from edge_ser_train.evaluate.rejection import format_rejection
        from edge_ser_train.evaluate.rejection import rejection as rejection_of

        results = rejection_of(run_or_model, data, corpus, split)
        text, name = format_rejection(results), f"rejection-{corpus}-{split}"
    elif calibration:
        results = tuning.calibration(run_or_model, data, corpus, split, cache)
        text, name = evaluation.format_comparison(results, "calibration"), f"calibration-{corpus}-{split}"
    elif adaptation:
        from edge_ser_train.evaluate.adaptation import adaptation as adapted
        from edge_ser_train.evaluate.adaptation import format_adaptation

        results = adapted(run_or_model, data, corpus, split, cache)
        text, name = format_adaptation(results), f"adaptation-{corpus}-{split}"
    else:
        is_run = run_or_model.is_dir()
        score = evaluation.evaluate_run(run_or_model, data, corpus, split, cache) if is_run else None
        results = [score or evaluation.evaluate_model(run_or_model, data, corpus, split)]
        text, name = evaluation.format_evaluation(results[0]), f"evaluation-{corpus}-{split}"
        if record:
            record_score(run_or_model, results[0], evaluation.engine_of(run_or_model))
    click.echo("\n".join(json.dumps(r, ensure_ascii=False) for r in results) if as_json else text)
    if run_or_model.is_dir():
        from edge_ser_train.evaluate.pictures import write_adaptation, write_evaluation
        from edge_ser_train.method.run import write_atomic

        alone = name.startswith("evaluation")
        write_atomic(run_or_model / f"{name}.json", json.dumps(results[0] if alone else results, indent=1) + "\n")
        if alone:
            write_evaluation(results[0], run_or_model / f"{name}.png")
        if adaptation:
            write_adaptation([results], run_or_model / f"{name}.png")


@click.group(short_help="Look a corpus over.")
def corpus() -> None:
    """Look a corpus over before it is trained on."""


@corpus.command()
@click.argument("folder", metavar="DIR", type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Everything as one JSON object, every file named.")
def check(folder: Path, as_json: bool) -> None:
    """Read the corpus in DIR, all its audio included, and print what it holds and what is wrong with it.

    DIR holds labels.csv, or IEMOCAP, RAVDESS, EmoDB or CREMA-D as published. The exit status is 1 when there are errors:
    faults of the table, unreadable or silent files, identical audio with different labels, speakers in two splits. Warnings
    leave it 0.
    """
    from edge_ser_train.corpora.check import check_corpus, format_check

    result = check_corpus(folder)
    click.echo(json.dumps(result, ensure_ascii=False) if as_json else format_check(result))
    if not result["ok"]:
        raise SystemExit(1)


@click.command(short_help="Run the paper's experiments and report them.")
@_data_option
@click.option("--corpus", required=True, metavar="NAME", help="iemocap, cremad, emodb, ravdess, or a corpus of your own.")
@click.option(
    "--setting", "settings_of_paper", multiple=True, type=click.Choice(["1", "2", "3", "4"]), help="Mel/STFT × λ 0/0.3."
)
@click.option("--figure", "figures", multiple=True, type=click.Choice(["3a", "3b", "4", "5"]), help="A figure of the paper.")
@click.option("--table", "tables", multiple=True, type=click.Choice(["1", "2"]), help="A table of the paper.")
@click.option("--experiment", "named", multiple=True, metavar="NAME", help="An experiment by name, such as triplet-svm or edge.")
@click.option("--all", "everything", is_flag=True, help="All of it, with the losses it is compared with and the edge recipe.")
@click.option("--ablations", is_flag=True, help="The edge recipe with one part changed at a time.")
@click.option(
    "--classes",
    "n_classes",
    type=int,
    metavar="N",
    help="Where a corpus offers a choice: cremad 4, 7, 8; emodb 4, 7; ravdess 4, 8.",
)
@click.option("--protocol", metavar="NAME", help="Instead of the corpus' own: fixed, folds, leave-one-speaker-out, ...")
@click.option("--seeds", default=1, show_default=True, type=click.IntRange(1), help="Seeds of every cell: 0, 1, ...")
@click.option("--jobs", default=1, show_default=True, type=click.IntRange(1), help="Cells run at a time.")
@click.option("--cells", "n_wanted", type=click.IntRange(0), metavar="N", help="The next N cells alone; 0 says what all cost.")
@click.option("--set", "settings", multiple=True, metavar="NAME=VALUE", help="Change one setting of every run.")
@click.option("--quick", is_flag=True, help="Eight steps on a few clips of every class: whether it all runs.")
@click.option("--out", required=True, type=click.Path(path_type=Path), help="Folder of runs, results and report.")
@_cache_option
def reproduce(
    data: Path | None,
    corpus: str,
    settings_of_paper: tuple[str, ...],
    figures: tuple[str, ...],
    tables: tuple[str, ...],
    named: tuple[str, ...],
    everything: bool,
    ablations: bool,
    n_classes: int | None,
    protocol: str | None,
    seeds: int,
    jobs: int,
    n_wanted: int | None,
    settings: tuple[str, ...],
    quick: bool,
    out: Path,
    cache: Path | None,
) -> None:
    """Train what a table or figure of Dai et al. (ICASSP 2019) needs, and draw it beside the paper's.

    Every cell (experiment, fold, seed) is a run of its own below --out; the same command goes on where the last one stopped, and
    may run on several machines that share --out. First it says what the cells cost here, in the order that answers first.
    The report tells where the paper's figures compare: on IEMOCAP, under its own protocol, and nowhere else.
    """
    require_extra("train", *_TORCH, "sklearn")
    from tqdm import tqdm

    from edge_ser_train.method.dataset import default_cache_dir
    from edge_ser_train.paper.cells import plan_cells, unfinished
    from edge_ser_train.paper.cost import cost
    from edge_ser_train.paper.experiments import ABLATIONS, EXPERIMENTS, FIGURES, TABLES
    from edge_ser_train.paper.report import write_reproduction
    from edge_ser_train.paper.running import Outcome, in_order, run_cells

    if data is None:
        raise click.UsageError("missing --data (or EDGE_SER_DATA): the folder that holds the corpora")
    chosen = [name for name, e in EXPERIMENTS.items() if not e.lasting] if everything else []
    chosen += [f"setting-{n}" for n in settings_of_paper]
    chosen += [name for figure in figures for name in FIGURES[figure]]
    chosen += [name for table in tables for name in TABLES[table]]
    chosen = list(dict.fromkeys([*chosen, *named, *(ABLATIONS if ablations else ())]))
    if not chosen:
        raise click.UsageError("nothing to do: give --setting, --figure, --table, --experiment, --ablations or --all")
    cells = in_order(plan_cells(data, corpus, n_classes, chosen, seeds, protocol, settings, quick))
    todo = unfinished(out, cells)
    done = len(cells) - len(todo)
    click.echo(f"{len(cells)} cells ({len(chosen)} experiments), {done} done before", err=True)
    cache = cache or default_cache_dir()
    if todo and not quick:
        for line in cost(todo[: n_wanted or None], cache):
            click.echo(line, err=True)
    n_wanted, ended = len(todo) if n_wanted is None else n_wanted, list[Outcome]()
    with tqdm(total=len(cells), initial=done, desc="cells", unit="cell", disable=None) as bar:
        for cell, outcome in run_cells(todo, data, out, cache, jobs, n_wanted):
            ended.append(outcome)
            bar.update(outcome in (Outcome.DONE, Outcome.BEFORE))
            bar.write(f"{outcome.value}: {cell.name}", file=sys.stderr)
    done += ended.count(Outcome.DONE) + ended.count(Outcome.BEFORE)
    if report := write_reproduction(out, list(dict.fromkeys(cell.name.split("/")[0] for cell in cells)), quick):
        click.echo(report)
    if done < len(cells):
        elsewhere = ended.count(Outcome.ELSEWHERE)
        others = f", {elsewhere} of them in other processes' hands" if elsewhere else ""
        click.echo(f"{len(cells) - done} cells to do{others}; the same command goes on", err=True)
    if Outcome.STOPPED in ended:
        raise SystemExit(130)
