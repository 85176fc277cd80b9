"""``edge-ser info``: the model card, from the manifest in the file."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

from edge_ser.terminal import keyed

if TYPE_CHECKING:
    from edge_ser.model.manifest import ModelFile

_KEY_WIDTH = 16


@click.command(short_help="Print the model card.")
@click.argument("model", required=False, type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="The whole manifest as JSON.")
def command(model: Path | None, as_json: bool) -> None:
    """Print the model card of MODEL (default: the model that ships), from the manifest in the file."""
    from edge_ser.engines import BACKENDS, shipped_backend
    from edge_ser.model.manifest import read_model_file, shipped_model_path

    file = read_model_file(model or shipped_model_path(BACKENDS[shipped_backend()]))
    manifest = file.manifest
    if as_json:
        click.echo(json.dumps(json.loads(manifest.to_json()), indent=2, ensure_ascii=False))
        return
    for line in keyed(_card(file), _KEY_WIDTH):
        click.echo(line)


def _card(file: ModelFile) -> Iterator[tuple[str, str]]:
    """Yield the model card, line by line: what it is about and what the manifest says; an empty key goes on."""
    manifest = file.manifest
    front_end, training, quantization = manifest.front_end, manifest.training, manifest.quantization
    yield "model", str(file.path)
    yield "size", f"{len(file.content) / 1e6:.2f} MB, {quantization['scheme']}"
    weights, macs = quantization["weights_int8_percent"], quantization["macs_int8_percent"]
    yield "int8", f"{weights:.0f} % of weights, {macs:.0f} % of operations"
    yield "meant for", manifest.intended_use
    yield "not meant for", manifest.excluded_use
    yield "labels", ", ".join(manifest.labels)
    yield "front end", f"{front_end.name}: {front_end.rate_hz} Hz, {front_end.n_bins} bins"
    yield "embedding", f"{manifest.embedding_size} values, {len(manifest.centres)} class centres"
    yield "temperature", f"{manifest.temperature:.3f} (fitted on {training['dev_speakers']} dev speakers)"
    yield "no speech", f"a probability of speech below {manifest.speech['threshold']:.2g}"
    yield (
        "trained with",
        f"preset {training['preset']}, lambda {training['lambda_center']:g}, seed {training['seed']}, "
        f"step {training['best_step']} of {training['steps']}",
    )
    yield "trained on", f"{training['train_clips']} clips of {training['train_speakers']} speakers; {training['speech']}"
    for corpus in training["corpora"]:
        earlier = " (of what it builds on)" if corpus.get("earlier") else ""
        yield "", f"{corpus['name']}: {corpus['train_clips']} clips{earlier}, {corpus['licence']}; {corpus['citation']}"
    for score in manifest.scores:
        low, high = score["ua_95"]
        yield (
            f"{score['corpus']} {score['split']}",
            f"UA {score['ua']:.1%} [{low:.1%}, {high:.1%}], WA {score['wa']:.1%}, macro-F1 {score['macro_f1']:.1%}, "
            f"ECE {score['ece']:.3f}",
        )
        measured = f"this file in {score['engine']}" if "engine" in score else "the network before it was exported"
        several = score["n_speakers"] > 1
        speakers = f"{score['n_speakers']} speakers" if several else "no two speakers told apart, interval over clips"
        yield "", f"{score['n_clips']} clips, {speakers}; {score['protocol']}; {measured}"
        if score["by_gender"]:
            genders = score["by_gender"].items()
            yield "", ", ".join(f"{gender}: UA {of['ua']:.1%} on {of['n_clips']} clips" for gender, of in genders)
    yield "made with", ", ".join(f"{name} {version}" for name, version in manifest.created_with.items())
