"""A training run on disk: what lies in its folder, and how it is written so that nothing is ever half there.

config.toml              the resolved configuration
data.json                where the data was, its corpora, counts, label map, hash of the clip list
split.json               which clips are train, dev and test
model.safetensors        the best weights so far (dev UA), with labels, front end, and what finishing the run fits to them
checkpoint.safetensors   everything a resumed run needs: weights, Adam's moments, centres, step
metrics.jsonl            one line a look at the dev set
report.json, *.png       made when the run ends
evaluation-*.json        what `edge-ser evaluate` measured on it
.lock                    there while a process works on the run
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from edge_ser.errors import RunError
from edge_ser.files import holding, writing
from edge_ser.model.manifest import read_model_file, shipped_model_path
from edge_ser_train.corpora.clips import Clip
from edge_ser_train.corpora.splits import Split, speakers_of
from edge_ser_train.method.config import SHIPPED, TrainConfig, load_config

CONFIG, DATA, MODEL, CHECKPOINT = "config.toml", "data.json", "model.safetensors", "checkpoint.safetensors"
SPLIT, METRICS, REPORT, LOCK = "split.json", "metrics.jsonl", "report.json", ".lock"


def write_atomic(path: Path, content: bytes | str) -> None:
    """Write a file so that a reader, or a crash, sees the old content or the new and nothing between."""
    with writing(path, error=RunError) as file:
        file.write(content.encode() if isinstance(content, str) else content)


def describe_data(data: Split, data_dir: Path, corpora: Sequence[str], config: TrainConfig) -> dict[str, Any]:
    """Return the content of data.json."""
    labels = config.labels

    def count(clips: Sequence[Clip]) -> dict[str, Any]:
        return {
            "clips": len(clips),
            "speakers": len({(c.corpus, c.speaker) for c in clips}),
            "per_label": {label: sum(c.emotion == label for c in clips) for label in labels},
            "per_corpus": dict(Counter(c.corpus for c in clips)),
        }

    listing = [[c.corpus, c.name, c.speaker, c.emotion, part] for part in ("train", "dev") for c in getattr(data, part)]
    before = past(config)
    return {
        "data": str(data_dir.resolve()),
        "corpora": list(corpora),
        "corpora_before": {name: n for name, n in before.corpora.items() if name not in corpora},
        "protocol": data.protocol,
        "fold": data.fold,
        "speaker_dependent": data.speaker_dependent,
        "label_map": {label: label for label in labels} | config.label_map,
        "left_out": dict(data.left_out),
        "train": count(data.train),
        "dev": count(data.dev),
        "heard": {part: sorted(names | speakers_of(getattr(data, part))) for part, names in before.speakers.items()},
        "clips_sha256": hashlib.sha256(json.dumps(listing).encode()).hexdigest(),
    }


class Past(NamedTuple):
    """What a run learnt from before its first step: the data of what it starts from, and of what that started from."""

    speakers: dict[str, set[str]]
    """In train and dev, as ``corpus/name``; ``corpus/*`` where a model file does not say who."""
    corpora: dict[str, int]
    """Training clips of each corpus."""


def past(config: TrainConfig) -> Past:
    """Return what a run of this configuration has learnt from before its first step; RunError where that cannot be read."""
    found = Past({"train": set(), "dev": set()}, {})
    if config.optimizer.init_file:
        manifest = read_model_file(model_file(config.optimizer.init)).manifest
        found.corpora.update({c["name"]: c["train_clips"] for c in manifest.training["corpora"]})
        found.speakers["train"].update(f"{name}/*" for name in found.corpora)
    elif config.optimizer.init:
        data = read_data(Path(config.optimizer.init))
        found.corpora.update(data.get("corpora_before", {}) | data["train"]["per_corpus"])
        for part, names in found.speakers.items():
            names.update(data.get("heard", {}).get(part, ()))
    return found


def model_file(init: str) -> Path:
    """Return the ``.eser`` file that ``optimizer.init`` names."""
    return shipped_model_path(".eser") if init == SHIPPED else Path(init)


def open_run(config: TrainConfig, described: dict[str, Any], folder: Path, resume: bool) -> None:
    """Make the run's folder, or check that the one there is this run's; RunError says what differs."""
    if config.optimizer.frozen and not config.optimizer.init:
        raise RunError(
            "optimizer.frozen without optimizer.init; expected what has the convolutions: optimizer.init=RUN, or shipped"
        )
    if not resume:
        _require_none(folder)
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise RunError(f"cannot make the folder {folder}: {error.strerror or error}") from None
        return
    if load_config(folder / CONFIG) != config:
        raise RunError(f"{folder / CONFIG} differs from the settings given; resume without settings, or choose another --out")
    if read_data(folder)["clips_sha256"] != described["clips_sha256"]:
        raise RunError(f"{folder} was started on other clips than --data and --corpus give now; expected the same list")


@contextlib.contextmanager
def held(folder: Path) -> Iterator[None]:
    """Keep every other process from training in ``folder`` while the block runs; RunError when one does already."""
    with holding(folder / LOCK) as is_free:
        if not is_free:
            raise RunError(f"another process trains in {folder}; wait for it, or choose another --out")
        yield


def _require_none(folder: Path) -> None:
    if (folder / CONFIG).exists():
        raise RunError(f"{folder} already holds a run; continue it with --resume, or choose another --out")


def record_run(config: TrainConfig, described: dict[str, Any], split: Split, folder: Path) -> None:
    """Write what a run is into its folder, once its data are found to be in order: a refused split leaves nothing there.

    Raises RunError when another run has begun there meanwhile.
    """
    _require_none(folder)
    write_atomic(folder / DATA, json.dumps(described, indent=1) + "\n")
    write_atomic(folder / SPLIT, split.to_json())
    write_atomic(folder / CONFIG, config.to_toml())


def read_data(folder: Path) -> dict[str, Any]:
    """Read data.json; RunError when it is missing, damaged or incomplete."""
    data = read_json(folder / DATA)
    counts = ("clips", "speakers", "per_corpus")
    complete = isinstance(data.get("data"), str) and isinstance(data.get("corpora"), list) and "clips_sha256" in data
    if not complete or not all(isinstance(data.get(p), dict) and all(k in data[p] for k in counts) for p in ("train", "dev")):
        raise RunError(f"{folder / DATA} is incomplete; expected the description of the data that edge-ser train wrote")
    return data


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object; RunError when it is missing or damaged."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise RunError(f"cannot read {path}: {error}") from None
    if not isinstance(content, dict):
        raise RunError(f"{path} holds no JSON object")
    return content
