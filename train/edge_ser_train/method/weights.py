"""The tensors of a run: its checkpoint and its best weights, safetensors files with a checksum of their content."""

from __future__ import annotations

import base64
import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, cast

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from edge_ser.errors import ModelFileError, RunError
from edge_ser.frontend.features import FrontEndConfig
from edge_ser.geometry import EMBEDDING_SIZE
from edge_ser.model.manifest import distance_check, speech_check
from edge_ser_train.method.config import TrainConfig, load_config
from edge_ser_train.method.dequantize import read_network
from edge_ser_train.method.model import EmotionNet
from edge_ser_train.method.run import CHECKPOINT, CONFIG, METRICS, MODEL, model_file, read_data, write_atomic


def save_tensors(path: Path, tensors: dict[str, Tensor], metadata: dict[str, Any]) -> None:
    """Write tensors and JSON-able metadata as one safetensors file, atomically, with a checksum of both."""
    contiguous = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    text = json.dumps(metadata)
    # One key: safetensors writes several in any order, and equal runs shall have equal bytes.
    write_atomic(path, save(contiguous, {"edge_ser": f"{_checksum(contiguous, text)}\n{text}"}))


def _checksum(tensors: Mapping[str, Tensor], text: str) -> str:
    digest = hashlib.sha256(text.encode())
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def load_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read what :func:`save_tensors` wrote; RunError when it is missing, damaged or something else."""
    try:
        with safe_open(str(path), framework="pt") as file:
            found = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        checksum, _, text = found["edge_ser"].rpartition("\n")
        if checksum != _checksum(tensors, text):
            raise ValueError("it does not hold what its checksum says")
        metadata = json.loads(text)
        if not isinstance(metadata, dict):
            raise ValueError("its metadata is no object")
        return tensors, metadata
    except FileNotFoundError:
        raise RunError(f"{path} does not exist; expected the folder of a training run (edge-ser train --out ...)") from None
    except KeyError:
        raise RunError(f"{path} was not written by edge-ser; expected the weights of a training run") from None
    except (SafetensorError, OSError, ValueError) as error:
        raise RunError(f"{path} is damaged: {error}; expected the weights of a training run") from None


@dataclass
class Progress:
    """Where a run stands; saved in every checkpoint."""

    step: int = 0
    best_ua: float = -1.0
    best_step: int = 0
    loss_sums: list[float] = field(default_factory=lambda: [0.0, 0.0, 0.0])
    """Sums of L, L_s and L_c since the last look at dev, and ``loss_steps`` of them."""
    loss_steps: int = 0
    seconds: float = 0.0


def save_checkpoint(
    folder: Path, nets: Mapping[str, EmotionNet], optimizer: torch.optim.Adam, centres: Tensor, progress: Progress,
    metrics: Sequence[dict[str, Any]],
) -> None:  # fmt: skip
    """Write metrics and checkpoint; the checkpoint last, since it is what a resumed run believes.

    ``nets`` are the trained network, called ``net``, and what is kept beside it.
    """
    write_atomic(folder / METRICS, "".join(json.dumps(line) + "\n" for line in metrics))
    tensors = {f"{kind}.{name}": t for kind, net in nets.items() for name, t in net.state_dict().items()}
    for name, parameter in nets["net"].trained_parameters().items():
        for moment, value in optimizer.state[parameter].items():
            tensors[f"adam.{moment}.{name}"] = value
    save_tensors(folder / CHECKPOINT, tensors | {"centres": centres}, asdict(progress))


def load_checkpoint(
    folder: Path, nets: Mapping[str, EmotionNet], optimizer: torch.optim.Adam, centres: Tensor
) -> tuple[Progress, list[dict[str, Any]]]:
    """Read what :func:`save_checkpoint` wrote into the same objects; return progress and metrics."""
    try:
        tensors, saved = load_tensors(folder / CHECKPOINT)
    except RunError as error:
        raise RunError(
            f"{error}; no other is kept: start another run from its best weights with --set optimizer.init={folder}"
        ) from None
    try:
        progress = Progress(**saved)
        for kind, net in nets.items():
            net.load_state_dict({n.removeprefix(f"{kind}."): t for n, t in tensors.items() if n.startswith(f"{kind}.")})
        centres.copy_(tensors["centres"])
        for name, parameter in nets["net"].trained_parameters().items():
            layout = torch.channels_last if parameter.dim() == 4 else torch.contiguous_format
            moments = {m: tensors[f"adam.{m}.{name}"].to(parameter.device) for m in ("exp_avg", "exp_avg_sq")}
            optimizer.state[parameter] = {
                "step": tensors[f"adam.step.{name}"],
                **{m: t.contiguous(memory_format=layout) for m, t in moments.items()},
            }
    except (KeyError, TypeError, RuntimeError) as error:
        raise RunError(f"{folder / CHECKPOINT} does not fit this run: {error}") from None
    try:
        lines = (folder / METRICS).read_text(encoding="utf-8").splitlines()
        return progress, [m for m in map(json.loads, lines) if m["step"] <= progress.step]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RunError(f"cannot read {folder / METRICS}: {error}") from None


@dataclass(frozen=True)
class TrainedModel:
    """The best weights of a run, ready to evaluate or export."""

    net: EmotionNet
    config: TrainConfig
    labels: tuple[str, ...]
    front_end: FrontEndConfig
    centres: Tensor
    """Class centres in the embedding space, [n_classes, 64]."""
    temperature: float
    """Divides the logits before the softmax; fitted on dev when the run ends."""
    speech: dict[str, Any]
    """What tells speech from other sound, as ``Manifest.speech`` holds it; see ``edge_ser_train.method.speech``."""
    distance: dict[str, Any]
    """How far an utterance is from the training speech, as ``Manifest.distance`` holds it."""
    speech_mean: Tensor
    """Mean per bin of the training set's speech frames, in dB, [n_bins]; measured when the run ends."""
    speech_std: Tensor
    """Their standard deviation, in dB, [n_bins]."""
    speech_vector: Tensor
    """Mean encoder vector of the training set's speech, [encoder_size]; measured when the run ends."""
    ordinary_vector: Tensor
    """The same of its neutral and calm speech, or of all where there is none."""
    step: int
    weights_sha256: str
    data: dict[str, Any]
    """Content of data.json."""


def save_model(
    folder: Path, state: dict[str, Tensor], config: TrainConfig, step: int, centres: Tensor,
    measured: dict[str, Tensor], detector: dict[str, Any] | None = None, distance: dict[str, Any] | None = None,
    temperature: float = 1.0,
) -> None:  # fmt: skip
    """Write model.safetensors, ``measured`` by the names of :func:`unmeasured`; before its end, it and the rest say nothing."""
    nothing = base64.b64encode(bytes(2 * len(measured["speech_vector"]))).decode()
    metadata = {
        "labels": list(config.labels),
        "front_end": asdict(config.front_end_config),
        "temperature": temperature,
        "speech": detector or {"weights": nothing, "scale": 0.0, "bias": 0.0, "threshold": 0.0},
        "distance": distance or {"mean": nothing, "unit": 0.0, "scale": 0.0},
        "step": step,
    }
    save_tensors(folder / MODEL, {**state, "centres": centres, **measured}, metadata)


def unmeasured(net: EmotionNet) -> dict[str, Tensor]:
    """Return placeholders for what is measured of the training speech when a run ends, by their names in the file."""
    n_bins, size = net.n_bins, net.gru.input_size
    levels = {"speech_mean": torch.zeros(n_bins), "speech_std": torch.ones(n_bins)}
    return levels | {"speech_vector": torch.zeros(size), "ordinary_vector": torch.zeros(size)}


def load_network(folder: Path) -> tuple[EmotionNet, int, dict[str, Tensor], dict[str, Any]]:
    """Return the best network of the run in ``folder``, its step, and the file's other tensors and metadata.

    RunError when it is missing or another network.
    """
    if not folder.is_dir():
        raise RunError(f"{folder} is not a folder; expected a training run (edge-ser train --out ...)")
    tensors, metadata = load_tensors(folder / MODEL)
    config = load_config(folder / CONFIG)
    front_end = config.front_end_config
    if metadata.get("labels") != list(config.labels) or metadata.get("front_end") != asdict(front_end):
        raise RunError(f"{folder}: {MODEL} and {CONFIG} disagree about labels or front end; one of them was replaced")
    net = EmotionNet(front_end.n_bins, len(config.labels), config.model)
    measured = {name: tensors.pop(name, torch.empty(0)) for name in ("centres", *unmeasured(net))}
    expected = {name: tuple(t.shape) for name, t in net.state_dict().items()}
    found = {name: tuple(t.shape) for name, t in tensors.items()}
    for name in sorted(expected.keys() | found.keys()):
        if expected.get(name) != found.get(name):
            raise RunError(
                f"{folder / MODEL} holds another network: {name} is {found.get(name, 'missing')}, "
                f"expected {expected.get(name, 'no such tensor')}"
            )
    if not all(bool(torch.isfinite(t).all()) for t in (*measured.values(), *tensors.values())):
        raise RunError(f"{folder / MODEL} holds NaN or infinity; expected finite weights")
    step = metadata.get("step")
    if not isinstance(step, int):
        raise RunError(f"{folder / MODEL} is of step {step!r}; expected a whole number")
    net.load_state_dict(tensors)
    net.eval()
    return net, step, measured, metadata


def load_run(folder: Path) -> TrainedModel:
    """Load the best weights of the run in ``folder`` and what finishing it measured; RunError when they are not in order."""
    net, step, speech, metadata = load_network(folder)
    config, nothing, centres = load_config(folder / CONFIG), unmeasured(net), speech.pop("centres")
    if tuple(centres.shape) != (len(config.labels), EMBEDDING_SIZE):
        raise RunError(f"{folder / MODEL}: centres are {tuple(centres.shape)}, expected {(len(config.labels), EMBEDDING_SIZE)}")
    for name, values in speech.items():
        if values.shape != nothing[name].shape:
            raise RunError(f"{folder / MODEL}: {name} is {tuple(values.shape)}, expected {tuple(nothing[name].shape)}")
    if bool((speech["speech_std"] <= 0).any()):
        raise RunError(f"{folder / MODEL}: speech_std is not positive in every bin; expected standard deviations in dB")
    temperature = metadata.get("temperature")
    if not (isinstance(temperature, float) and 0 < temperature < math.inf):
        raise RunError(f"{folder / MODEL}: temperature is {temperature!r}; expected a positive number")
    detector, distance = (metadata.get(name) for name in ("speech", "distance"))
    try:
        speech_check(int(net.gru.input_size))("speech", detector)
        distance_check(int(net.gru.input_size))("distance", distance)
    except ModelFileError as error:
        fault = str(error).removeprefix("manifest: ")
        raise RunError(f"{folder / MODEL}: {fault}; edge-ser train --out {folder} --resume measures it anew") from None
    return TrainedModel(
        net=net,
        config=config,
        labels=config.labels,
        front_end=config.front_end_config,
        centres=centres,
        temperature=temperature,
        speech=cast(dict[str, Any], detector),  # the checks have seen to it
        distance=cast(dict[str, Any], distance),
        **speech,
        step=step,
        weights_sha256=hashlib.sha256((folder / MODEL).read_bytes()).hexdigest(),
        data=read_data(folder),
    )


def initialise(net: EmotionNet, config: TrainConfig) -> None:
    """Start a network from what ``optimizer.init`` names; the classifier only where the labels agree.

    Of a run come the weights, the features are normalised by the new run's own data; of a model file, whose convolutions hold
    the batch normalisation, comes its normalisation as well, and so it does of the runs that started from one. Raises RunError
    for another front end or batch normalisation.
    """
    init, folded = config.optimizer.init, config.optimizer.init_file
    if folded:
        own, manifest = read_network(model_file(init), config.model)
        front_end, labels = manifest.front_end, manifest.labels
    else:
        trained = load_run(Path(init))
        own, front_end, labels = trained.net, trained.front_end, trained.labels
        # Whoever spoke in a model file's corpora is known as "corpus/*" alone, so the name marks what descends from one.
        heard = trained.data.get("heard", {}).get("train", ()) if trained.config.optimizer.init else ()
        folded = any(name.endswith("/*") for name in heard)
    if front_end != config.front_end_config or any(type(a) is not type(b) for a, b in zip(own.norms, net.norms, strict=True)):
        raise RunError(f"optimizer.init: {init} has another front end or batch normalisation; expected those of this run")
    if folded and config.model.batch_norm and not config.optimizer.frozen:
        raise RunError(
            f"optimizer.init: the convolutions of {init} hold their batch normalisation; expected optimizer.frozen=true"
        )
    state = {name: value for name, value in own.state_dict().items() if folded or not name.startswith("feature_")}
    if labels != config.labels:
        state = {name: value for name, value in state.items() if not name.startswith("fc2")}
    net.load_state_dict(state, strict=False)
