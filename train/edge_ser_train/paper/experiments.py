"""The paper's experiments, and those beside it, by name: what each one sets, and how long it runs on which corpus."""

from __future__ import annotations

from dataclasses import dataclass

FOUR = ("neutral", "angry", "happy", "sad")


Lasting = tuple[int, int, int]
"""Steps of a run, of which it looks at dev every so many, and keeps the weights of none up to so many."""


@dataclass(frozen=True)
class Plan:
    """How a corpus is used: labels, protocol, and how long a run lasts: on Mel or STFT input, or under a recipe of that name."""

    labels: tuple[str, ...]
    protocol: str
    mel: Lasting
    stft: Lasting
    edge: Lasting
    transfer: Lasting | None = None
    frozen: Lasting | None = None
    pretrained: Lasting | None = None
    wide: Lasting | None = None
    channel: Lasting | None = None
    ablation: Lasting | None = None
    others: str = ""
    """The run on the other two corpora, which ``pretrained`` starts from."""
    beside: str = ""
    """A protocol of new speakers, where the other one knows them."""


# Whoever is tested on EmoDB or RAVDESS may have learnt from all of the other two corpora, and from the union of their labels.
_WITHOUT_EMODB = "cremad-8-fixed/with-ravdess/all-seed0"
_WITHOUT_RAVDESS = "cremad-7-fixed/with-emodb/all-seed0"
_EMODB = ("neutral", "angry", "happy", "sad", "boredom", "disgust", "fear")
_RAVDESS = ("neutral", "angry", "happy", "sad", "calm", "disgust", "fear", "surprise")
_SPEAKERS, _FOLDS, _SHORT, _LONG = "leave-one-speaker-out", "folds", (1000, 50, 200), (600, 100, 200)
PLANS: dict[tuple[str, int], Plan] = {
    # As in the authors' code: a look at dev every 11 steps, best kept after 200 (Mel) or 400 (STFT).
    ("iemocap", 4): Plan(
        FOUR, "paper", (3520, 11, 200), (2920, 11, 400), (3500, 100, 1000), beside="leave-one-session-out",
    ),
    ("cremad", 4): Plan(
        FOUR, "fixed", _SHORT, _SHORT, (2500, 100, 1000), frozen=_LONG,
        wide=(7000, 500, 4000), channel=(10000, 500, 6000), ablation=(300, 100, 100),
    ),
    ("cremad", 7): Plan(_EMODB, "fixed", _SHORT, _SHORT, (4000, 500, 2000)),
    ("cremad", 8): Plan(_RAVDESS, "fixed", _SHORT, _SHORT, (4000, 500, 2000)),
    ("emodb", 4): Plan(
        FOUR, _SPEAKERS, (200, 25, 100), (200, 25, 100), (400, 50, 200), (150, 25, 50), (500, 50, 150), _LONG,
        others=_WITHOUT_EMODB,
    ),
    ("emodb", 7): Plan(
        _EMODB, _SPEAKERS, (300, 25, 100), (300, 25, 100), (600, 50, 200), (200, 25, 50), (500, 50, 150), _LONG,
        others=_WITHOUT_EMODB,
    ),
    ("ravdess", 8): Plan(
        _RAVDESS, _FOLDS, (600, 50, 200), (600, 50, 200), (1200, 100, 500), (400, 50, 100), (1000, 100, 300), (1000, 100, 300),
        others=_WITHOUT_RAVDESS,
    ),
    ("ravdess", 4): Plan(
        FOUR, _FOLDS, (400, 50, 100), (400, 50, 100), (800, 100, 300), (300, 50, 100), (500, 50, 150), (1000, 100, 300),
        others=_WITHOUT_RAVDESS,
    ),
}  # fmt: skip
"""Steps on the open corpora are what two CPU cores can do; no test set chose them."""


@dataclass(frozen=True)
class Experiment:
    """A named recipe."""

    preset: str
    stft: bool
    settings: tuple[str, ...]
    title: str
    lasting: str = ""
    """Which of the plan's recipes says how long it runs; default: by preset and input."""
    also: str = ""
    """Another corpus, all of whose clips with these labels are trained on beside the corpus' own."""


_CREMAD_RUN = "cremad-4-fixed/edge/all-seed0"
_WIDE_RUN = "cremad-4-fixed/edge-wide/all-seed0"
_CHANNEL_RUN = "cremad-4-fixed/edge-channel/all-seed0"


def _paper(title: str, *settings: str, stft: bool = False) -> Experiment:
    return Experiment("paper", stft, settings, title)


# The edge recipe of the first rounds, when level, background and channel varied less.
_CHANNEL = "augment.band_limit=0.1"
_NARROW = ("augment.gain_db=8.0", "augment.denoise=0.0", "augment.noise=0.3", "augment.noise_snr_db=15.0", _CHANNEL)


def _edge(title: str, *settings: str, lasting: str = "", also: str = "") -> Experiment:
    return Experiment("edge", False, (*_NARROW, *settings), title, lasting, also)


def _ablation(title: str, *settings: str, also: str = "") -> Experiment:
    return _edge(title, *settings, lasting="ablation", also=also)


def _frozen(lambda_center: float, run: str = _CREMAD_RUN, which: str = "run on cremad") -> Experiment:
    settings = f"loss.lambda_center={lambda_center}", f"optimizer.init={run}"
    return Experiment("small", False, settings, f"behind the convolutions of the {which}, λ = {lambda_center:g}", "frozen")


def _exchanged(title: str, run: str, *settings: str) -> Experiment:
    held = "optimizer.frozen=true", f"optimizer.init={run}", "augment.speaker_shift=2.0", *settings
    return Experiment("edge", False, held, f"then behind its convolutions with {title}, λ = 0.1", "frozen")


def _longer(title: str, speaker_shift: float) -> Experiment:
    held = "optimizer.frozen=true", f"optimizer.init={_CREMAD_RUN}", f"augment.speaker_shift={speaker_shift}"
    return _edge(f"{title}, λ = 0.3", "loss.lambda_center=0.3", *held, lasting="frozen")


def _pretrained(lambda_center: float) -> Experiment:
    title = f"edge recipe, started from the run on the other two corpora, λ = {lambda_center:g}"
    return _edge(title, f"loss.lambda_center={lambda_center}", lasting="pretrained")


ALPHAS = (0.1, 0.3, 0.5, 0.7, 0.9)
ALPHA_SWEEP = {a: "setting-2" if a == 0.5 else f"alpha-{a}" for a in ALPHAS}
EDGE_ALPHA_SWEEP = {a: "edge" if a == 0.5 else f"edge-alpha-{a}" for a in ALPHAS}
LAMBDA_SWEEP = {0.0: "setting-1", **{v: f"lambda-{v}" for v in (0.003, 0.03)}, 0.3: "setting-2", 3.0: "lambda-3.0"}
EDGE_LAMBDA_SWEEP = {0.0: "edge-lambda-0", **{v: f"edge-lambda-{v}" for v in (0.03, 0.1)}, 0.3: "edge", 1.0: "edge-lambda-1.0"}
"""The experiments of the paper's recipe and of the edge recipe by α, with λ 0.3, and by λ, with α 0.5."""


def _others(sweep: dict[float, str], *known: float) -> list[tuple[float, str]]:
    return [(value, name) for value, name in sweep.items() if value not in known]


EXPERIMENTS: dict[str, Experiment] = {
    "setting-1": _paper("Mel, softmax loss (λ = 0)", "loss.lambda_center=0.0"),
    "setting-2": _paper("Mel, softmax + center loss (λ = 0.3)", "loss.lambda_center=0.3"),
    "setting-3": _paper("STFT, softmax loss (λ = 0)", "loss.lambda_center=0.0", stft=True),
    "setting-4": _paper("STFT, softmax + center loss (λ = 0.3)", "loss.lambda_center=0.3", stft=True),
    **{name: _paper(f"Mel, λ = 0.3, α = {a}", f"loss.alpha={a}") for a, name in _others(ALPHA_SWEEP, 0.5)},
    **{name: _paper(f"Mel, λ = {v}, α = 0.5", f"loss.lambda_center={v}") for v, name in _others(LAMBDA_SWEEP, 0.0, 0.3)},
    "triplet-svm": _paper("Mel, triplet loss + SVM", "loss.kind=triplet"),
    "cosine-svm": _paper("Mel, cosine-similarity pairs + SVM", "loss.kind=cosine_pairs"),
    "separation": _paper("Mel, λ = 0.3, centres pushed apart (island loss, weight 10)", "loss.kind=island"),
    "edge": _edge("edge recipe, Mel, λ = 0.3", "loss.lambda_center=0.3"),
    "edge-lambda-0": _edge("edge recipe, Mel, λ = 0", "loss.lambda_center=0.0"),
    **{
        name: _edge(f"edge recipe, Mel, λ = 0.3, α = {a}", "loss.lambda_center=0.3", f"loss.alpha={a}", lasting="edge")
        for a, name in _others(EDGE_ALPHA_SWEEP, 0.5)
    },
    **{
        name: _edge(f"edge recipe, Mel, λ = {v}", f"loss.lambda_center={v}", lasting="edge")
        for v, name in _others(EDGE_LAMBDA_SWEEP, 0.0, 0.3)
    },
    "edge-wide": Experiment("edge", False, (_CHANNEL,), "edge recipe, wide levels and quieter backgrounds, λ = 0.1", "wide"),
    "edge-final": _exchanged("speakers' means exchanged", _WIDE_RUN, _CHANNEL),
    "edge-channel": Experiment("edge", False, (), "edge recipe, wide levels, three channels in ten narrow, λ = 0.1", "channel"),
    "edge-shipped": _exchanged("speakers' means exchanged and sound without speech", _CHANNEL_RUN, "loss.outliers=0.03"),
    "edge-transfer": _edge(
        "edge recipe, λ = 0.3, started from the run on cremad",
        "loss.lambda_center=0.3",
        f"optimizer.init={_CREMAD_RUN}",
        "optimizer.lr=5e-4",
        lasting="transfer",
    ),
    "with-emodb": _edge("edge recipe, EmoDB trained on too: where RAVDESS starts", lasting="edge", also="emodb"),
    "with-ravdess": _edge("edge recipe, RAVDESS trained on too: where EmoDB starts", lasting="edge", also="ravdess"),
    "pretrained": _pretrained(0.3),
    "pretrained-lambda-0": _pretrained(0.0),
    "edge-longer": _longer("edge recipe, then behind its convolutions", 0.0),
    "edge-shifted": _longer("edge recipe, then behind its convolutions with speakers' means exchanged", 1.0),
    "frozen": _frozen(0.3),
    "frozen-lambda-0": _frozen(0.0),
    "frozen-channel": _frozen(0.3, _CHANNEL_RUN, "shipped recipe's first run on cremad"),
    "frozen-shipped": _frozen(0.3, "shipped", "model that ships"),
    "frozen-shipped-lambda-0": _frozen(0.0, "shipped", "model that ships"),
}


def _name(change: str) -> str:
    return f"ablation-{change.replace(' ', '-')}"


ABLATIONS: dict[str, Experiment] = {
    "ablation-none": _ablation("as it is"),
    **{
        _name(change): _ablation(change, *settings)
        for change, settings in {
            "no gain": ("augment.gain_db=0.0",),
            "no SpecAugment": ("augment.freq_masks=0", "augment.time_masks=0"),
            "no noise": ("augment.noise=0.0",),
            "no reverberation": ("augment.reverb=0.0",),
            "no equaliser nor narrow band": ("augment.equaliser_db=0.0", "augment.band_limit=0.0"),
            "no dropout": ("model.dropout=0.0",),
            "no batch norm": ("model.batch_norm=false",),
            "constant rate": ("optimizer.schedule=constant", "optimizer.lr=3e-4"),
            "no EMA": ("optimizer.ema=0.0",),
        }.items()
    },
    "ablation-with-emodb": _ablation("EmoDB trained on too", also="emodb"),
}
"""One change each to the edge recipe, compared on dev. The runs ``edge`` and ``edge-lambda-0`` are the longer training and λ."""
ABLATION_TITLES = {name: e.title for name, e in ABLATIONS.items()} | {
    _name(change): change
    for change in (
        "VTLP instead of frequency warp",
        "three speeds instead of stretch and warp",
        "dynamics scaled by band",
        "label smoothing 0.1",
        "taught by two long runs",
    )
}
"""The last five earned no place in a recipe: their settings are gone, what they gave is in the results."""
SETTINGS = ("setting-1", "setting-2", "setting-3", "setting-4")
BESIDE = (*SETTINGS, "edge", "edge-lambda-0")
"""What is also run under the protocol beside a corpus' own."""
ANSWERS_FIRST = ("setting-1", "setting-2", "edge", "edge-lambda-0", "setting-3", "setting-4", "triplet-svm", "cosine-svm")
"""Before the other experiments: what the center loss brings on Mel, to the recipe that ships, on STFT, against other losses."""
FIGURES = {"3a": tuple(ALPHA_SWEEP.values()), "3b": tuple(LAMBDA_SWEEP.values()), "4": ("setting-1", "setting-2"), "5": SETTINGS}
TABLES = {"1": ("setting-1", "setting-2"), "2": ("setting-3", "setting-4")}
COMPARISONS = (
    ("center loss, Mel", "setting-2", "setting-1"),
    ("center loss, STFT", "setting-4", "setting-3"),
    ("center loss, edge recipe", "edge", "edge-lambda-0"),
    ("edge recipe against the paper's, λ = 0.3", "edge", "setting-2"),
    ("600 steps more behind the edge recipe's own convolutions", "edge-longer", "edge"),
    ("speakers' means exchanged, behind the edge recipe's convolutions", "edge-shifted", "edge-longer"),
    ("STFT against Mel, λ = 0.3", "setting-4", "setting-2"),
    ("softmax + center loss against triplets + SVM", "setting-2", "triplet-svm"),
    ("softmax + center loss against cosine pairs + SVM", "setting-2", "cosine-svm"),
    ("centres pushed apart", "separation", "setting-2"),
    *((f"λ = {v:g} against 0", name, "setting-1") for v, name in _others(LAMBDA_SWEEP, 0.0, 0.3)),
    *((f"α = {a:g} against 0.5", name, "setting-2") for a, name in _others(ALPHA_SWEEP, 0.5)),
    *((f"edge recipe, λ = {v:g} against 0", name, "edge-lambda-0") for v, name in _others(EDGE_LAMBDA_SWEEP, 0.0, 0.3)),
    *((f"edge recipe, α = {a:g} against 0.5", name, "edge") for a, name in _others(EDGE_ALPHA_SWEEP, 0.5)),
    ("edge recipe against openSMILE + SVM", "edge", "egemaps-svm"),
    ("edge recipe from cremad's run against the paper's from scratch, λ = 0.3", "edge-transfer", "setting-2"),
    ("edge recipe from the other two corpora against the paper's from scratch, λ = 0.3", "pretrained", "setting-2"),
    ("behind cremad's convolutions against the paper's recipe from scratch, λ = 0.3", "frozen", "setting-2"),
    ("behind the convolutions that ship against the paper's recipe from scratch, λ = 0.3", "frozen-shipped", "setting-2"),
    ("edge recipe from cremad's run against openSMILE + SVM", "edge-transfer", "egemaps-svm"),
    ("behind cremad's convolutions against openSMILE + SVM, λ = 0.3", "frozen", "egemaps-svm"),
    ("behind cremad's convolutions against openSMILE + SVM, λ = 0", "frozen-lambda-0", "egemaps-svm"),
    ("center loss, behind cremad's convolutions", "frozen", "frozen-lambda-0"),
    ("center loss, behind the convolutions that ship", "frozen-shipped", "frozen-shipped-lambda-0"),
    ("started from the other two corpora against openSMILE + SVM, λ = 0.3", "pretrained", "egemaps-svm"),
    ("started from the other two corpora against behind cremad's convolutions, λ = 0.3", "pretrained", "frozen"),
    ("center loss, started from the other two corpora", "pretrained", "pretrained-lambda-0"),
    ("wide levels and quieter backgrounds against the edge recipe, λ = 0.3", "edge-wide", "edge"),
    ("speakers' means exchanged, behind the convolutions of wide levels", "edge-final", "edge-wide"),
    ("the preset as it ships against one narrow channel in ten and 7,000 steps", "edge-channel", "edge-wide"),
    ("speakers' means exchanged and sound without speech, behind those of narrow channels", "edge-shipped", "edge-channel"),
    ("behind cremad's convolutions: the shipped recipe's against the edge recipe's", "frozen-channel", "frozen"),
)
"""What is compared: a title, the experiment with, and the one without."""
