"""The C library of ``edge_ser/csrc`` through ctypes: the only binding, of the library that is installed and of exported models.

The structs and functions are those of ``eser.h`` and ``eser_parts.h``; arrays are handed over by :func:`at`, and must be kept
until the call returns.
"""

from __future__ import annotations

import ctypes
import os
import sys
from functools import lru_cache
from pathlib import Path
from typing import Any, cast

import numpy as np

from edge_ser.arrays import AnyArray, Float32Array, UInt8Array
from edge_ser.errors import BackendError, did_you_mean
from edge_ser.frontend.features import LOGMEL_V1
from edge_ser.geometry import EMBEDDING_SIZE, ENCODER_SIZE, N_BINS, vector_count
from edge_ser.model.eser_file import FORMAT, MAX_LABELS

LIBRARY = "libeser" + {"win32": ".dll", "darwin": ".dylib"}.get(sys.platform, ".so")
"""Name of the library on this system."""
_PACKAGE = Path(__file__).parents[1]
SOURCES = _PACKAGE / "csrc"
"""The folder of the C sources, which come with the package."""
KERNEL_VARIABLE = "EDGE_SER_KERNEL"
"""The environment variable that names the kernels to use, for tests and bug reports; without it the fastest are used."""
_LINE_BYTES = 64
_NOTHING = ctypes.c_char * 0

COMPILER = {"win32": "the MinGW-w64 compiler", "darwin": "xcode-select --install"}.get(sys.platform, "apt install gcc")
"""Where a C compiler comes from on this system."""
_WITHOUT = (
    "the C library is not installed: no wheel of edge-ser fits this system, and there was no C compiler when it was installed; "
    f"install one ({COMPILER}), then pip install --force-reinstall --no-deps edge-ser"
)


class Layer(ctypes.Structure):
    """``eser_layer``."""

    _fields_ = (
        *((name, ctypes.c_void_p) for name in ("weight", "bias", "multiplier")),
        *((name, ctypes.c_int32) for name in ("shift", "n_in", "n_out")),
    )


class Model(ctypes.Structure):
    """``eser_model``."""

    _fields_ = (
        ("format", ctypes.c_uint32),
        ("n_labels", ctypes.c_uint32),
        *((name, ctypes.c_void_p) for name in ("labels", "feature_gain", "feature_offset")),
        ("layers", Layer * 10),
        ("prelu", ctypes.c_void_p),
        ("temperature", ctypes.c_float),
        ("speech", ctypes.c_void_p),
        *((name, ctypes.c_float) for name in ("speech_scale", "speech_bias", "speech_threshold")),
        ("usual", ctypes.c_void_p),
        ("distance_scale", ctypes.c_float),
        ("winograd", ctypes.c_void_p * 2),
    )


class Result(ctypes.Structure):
    """``eser_result``."""

    _fields_ = (
        ("n_labels", ctypes.c_uint32),
        ("label_index", ctypes.c_uint32),
        ("label", ctypes.c_char_p),
        ("probabilities", ctypes.c_float * MAX_LABELS),
        ("logits", ctypes.c_float * MAX_LABELS),
        ("embedding", ctypes.c_float * EMBEDDING_SIZE),
        ("speech", ctypes.c_float),
        ("is_speech", ctypes.c_int32),
        ("judged_s", ctypes.c_float),
        ("logits_q16", ctypes.c_int32 * MAX_LABELS),
        ("embedding_q16", ctypes.c_int32 * EMBEDDING_SIZE),
    )

    def integers(self) -> tuple[int, ...]:
        """Return logits and embedding in 1/65536: the same on every target."""
        return (*self.logits_q16[: self.n_labels], *self.embedding_q16)


_P, _N, _U32, _INT, _TEXT = ctypes.c_void_p, ctypes.c_size_t, ctypes.c_uint32, ctypes.c_int, ctypes.c_char_p
_FUNCTIONS: dict[str, tuple[Any, tuple[Any, ...]]] = {
    # A stream.
    "eser_size": (_N, (_P,)),
    "eser_init": (_INT, (_P, _P, _P, _N)),
    "eser_set_person": (_INT, (_P, _P)),
    "eser_feed_i16": (_INT, (_P, _P, _N)),
    "eser_feed_f32": (_INT, (_P, _P, _N)),
    "eser_push_levels": (_INT, (_P, _P, _N)),
    "eser_push_vectors": (_INT, (_P, _P, _N)),
    "eser_vectors": (_N, (_P, _P)),
    "eser_estimate": (_INT, (_P, _P)),
    "eser_finish": (_INT, (_P, _P)),
    "eser_reset": (_INT, (_P,)),
    "eser_strerror": (_TEXT, (_INT,)),
    "eser_version": (_TEXT, ()),
    # Its parts.
    "eser_sizes": (None, (_P,)),
    "eser_kernels_at": (_P, (_U32,)),
    "eser_features_batch_of": (None, (_P, _P, _N, _P)),
    "eser_encode_batch": (_N, (_P, _P, _P, _P, _N, _P, _P, _N)),
    "eser_vectors_batch": (_N, (_P, _P, _P, _P, _N, _P, _N)),
    "eser_judge_batch": (None, (_P, _P, _P, _N, _P, _P)),
    "eser_statistics": (None, (_P, _N, _U32, _P)),
    "eser_winograd_size": (_N, (_P, _P, _INT)),
    "eser_winograd_weights": (None, (_P, _INT, _P)),
}
"""What each function returns and takes."""


def bind(path: Path | None) -> ctypes.CDLL:
    """Load a shared library of the C sources, None: of a zipped package; BackendError when it is none, or another version's."""
    sizes = (ctypes.c_uint32 * 4)()
    try:
        library = _zipped() if path is None else ctypes.CDLL(str(path))
        for name, (returned, taken) in _FUNCTIONS.items():
            function = getattr(library, name)
            function.restype, function.argtypes = returned, taken
        library.eser_sizes(sizes)
    except (OSError, AttributeError) as error:
        raise BackendError(f"{path} cannot be loaded ({error}); install edge-ser again") from None
    if (sizes[0], sizes[1]) != (FORMAT, ctypes.sizeof(Model)) or 0 in sizes:
        raise BackendError(f"{path} is of another version of edge-ser; install edge-ser again")
    return library


def library_path() -> Path | None:
    """Return where the compiled library lies: beside the package, or where an editable install put it; None: nowhere."""
    if not _PACKAGE.is_dir():  # it is imported from a zip archive
        return None
    places = (_PACKAGE, *(Path(entry) / "edge_ser" for entry in sys.path))
    return next((place / LIBRARY for place in places if (place / LIBRARY).is_file()), None)


def _zipped() -> ctypes.CDLL:
    """Load the library out of the zip archive that the package is imported from; BackendError where there is none."""
    import pkgutil  # milliseconds, of zipped packages alone
    import tempfile

    try:
        content = None if _PACKAGE.is_dir() else pkgutil.get_data("edge_ser", LIBRARY)
    except OSError:
        content = None
    if content is None:
        raise BackendError(_WITHOUT)
    # Once loaded it needs no name; Windows alone keeps the file of a library that is in use.
    with tempfile.TemporaryDirectory(prefix="edge-ser-", ignore_cleanup_errors=True) as folder:
        file = Path(folder) / LIBRARY
        file.write_bytes(content)
        return ctypes.CDLL(str(file))


@lru_cache(maxsize=1)
def load_library() -> ctypes.CDLL:
    """Return the library that is installed; BackendError when it is missing or another version's."""
    return bind(library_path())


def struct_sizes(library: ctypes.CDLL) -> tuple[int, int]:
    """Return the bytes of an ``eser_encoder`` and of an ``eser_projected``."""
    sizes = (ctypes.c_uint32 * 4)()
    library.eser_sizes(sizes)
    return sizes[2], sizes[3]


def kernels(library: ctypes.CDLL | None = None) -> list[str]:
    """Return the names of the inner loops that this processor runs, plain C first, the ones in use last."""
    library = library or load_library()
    found: list[str] = []
    while at := library.eser_kernels_at(len(found)):
        found.append(cast(bytes, ctypes.c_char_p.from_address(at).value).decode())
    return found


def kernel_in_use(library: ctypes.CDLL | None = None) -> tuple[int, str]:
    """Return the name of the inner loops in use and where they lie: the fastest, or those that EDGE_SER_KERNEL names.

    BackendError where the processor does not run those.
    """
    library = library or load_library()
    names = kernels(library)
    name = os.environ.get(KERNEL_VARIABLE) or names[-1]
    if name not in names:
        raise BackendError(f"{KERNEL_VARIABLE} is {name!r}{did_you_mean(name, names)}; this processor runs {', '.join(names)}")
    return library.eser_kernels_at(names.index(name)), name


def is_there() -> bool:
    """Return whether the library is installed and can be loaded."""
    try:
        load_library()
    except BackendError:
        return False
    return True


def is_fast() -> bool:
    """Return whether the library is there and has vector kernels for this processor, or kernels were asked for by name."""
    try:
        return len(kernels()) > 1 or bool(os.environ.get(KERNEL_VARIABLE))
    except BackendError:
        return False


def at(values: AnyArray) -> int:
    """Return where an array's numbers lie, one behind the other."""
    if not values.flags.c_contiguous:
        raise ValueError("an array handed to C must be contiguous")
    memory = values.data  # not flags.writeable: numpy's broadcast arrays call themselves writeable, and their memory is not
    if memory.readonly:
        return values.ctypes.data
    return ctypes.addressof(_NOTHING.from_buffer(memory))  # a fifth of the other's time


def words(n_bytes: int) -> ctypes.Array[Any]:
    """Return memory of ``n_bytes`` or a little more, aligned for everything in C."""
    return (ctypes.c_uint64 * -(-n_bytes // 8))()


def on_a_line(values: AnyArray) -> AnyArray:
    """Return a copy that begins where a cache line does, so that no vector of weights lies across two of them."""
    memory = np.empty(values.nbytes + _LINE_BYTES, dtype=np.uint8)
    start = -memory.ctypes.data % _LINE_BYTES
    copy = memory[start : start + values.nbytes].view(values.dtype)
    copy[:] = values
    return copy


def features(library: ctypes.CDLL, kernels: int, samples: Float32Array) -> Float32Array:
    """Return every frame that fits into ``samples`` [n], 16 kHz, in dB, float32 [T, 128], computed by ``kernels``."""
    samples = np.ascontiguousarray(samples, dtype=np.float32)
    n_frames = max(0, 1 + (len(samples) - LOGMEL_V1.frame_samples) // LOGMEL_V1.hop_samples)
    out = np.empty((n_frames, N_BINS), dtype=np.float32)
    library.eser_features_batch_of(kernels, at(samples), n_frames, at(out))
    return out


class Stream:
    """An ``eser`` stream of a library that holds a model, in memory of its own."""

    def __init__(self, library: ctypes.CDLL) -> None:
        self._library, self._stream = library, ctypes.c_void_p()
        model = ctypes.byref(ctypes.c_char.in_dll(library, "eser_default_model"))
        self.n_bytes = int(library.eser_size(model))
        self._memory = words(self.n_bytes)
        self._require(library.eser_init(ctypes.byref(self._stream), model, self._memory, self.n_bytes))

    def _require(self, status: int) -> None:
        if status:
            raise BackendError(self._library.eser_strerror(status).decode())

    def set_person(self, name: str = "eser_default_person") -> None:
        """Answer for the person that the library holds."""
        self._require(self._library.eser_set_person(self._stream, ctypes.byref(ctypes.c_char.in_dll(self._library, name))))

    def feed(self, samples: AnyArray) -> None:
        """Feed samples [n], int16 or float32."""
        feed = self._library.eser_feed_i16 if samples.dtype == np.int16 else self._library.eser_feed_f32
        self._require(feed(self._stream, at(samples), len(samples)))

    def vectors(self) -> UInt8Array:
        """Return the encoder vectors that are kept, [P, 480]."""
        out = np.empty((vector_count(LOGMEL_V1.max_frames), ENCODER_SIZE), dtype=np.uint8)
        return out[: self._library.eser_vectors(self._stream, at(out))]

    def estimate(self) -> Result:
        """Return the answer for what came so far."""
        result = Result()
        self._require(self._library.eser_estimate(self._stream, ctypes.byref(result)))
        return result

    def finish(self) -> Result:
        """End the utterance and return the answer."""
        result = Result()
        self._require(self._library.eser_finish(self._stream, ctypes.byref(result)))
        return result
