"""Two compiled functions of scipy, reached without the packages around them.

Why not plainly: on one x86-64 core, 3 s of speech take 0.69 ms this way and a first answer with ONNX Runtime 0.19 s and 72 MB.
``scipy.fft`` and ``scipy.sparse`` by their public names give the same bits in 1.0 ms, 0.37 s and 93 MB, and either one alone
costs 0.15 s. ``numpy.fft.rfft`` starts as fast and takes 1.06 ms. It rounds otherwise (by 2e-4 dB), and before numpy 2 it
computes in float64: a model's features would depend on numpy's version. ``np.add.reduceat`` in the sparse product's place makes
that 1.6 ms. An einsum a band takes twice as long and, like a dense product, sums otherwise for another block length: streams
would not equal recordings. The modules are scipy's own business. What is found there must first give two known results; where it
does not, the public functions do the same sums, bit for bit.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from importlib.machinery import PathFinder
from importlib.util import find_spec, module_from_spec
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from edge_ser.arrays import AnyArray, Float32Array, Int32Array


class SparseRows(NamedTuple):
    """A sparse matrix in compressed rows."""

    starts: Int32Array
    """Where each row begins in the two below, [n_rows + 1]."""
    columns: Int32Array
    values: Float32Array

    @classmethod
    def of(cls, dense: Float32Array) -> SparseRows:
        """Take the non-zero values of a matrix [n_rows, n_columns]."""
        rows, columns = np.nonzero(dense)
        starts = np.searchsorted(rows, np.arange(len(dense) + 1))
        return cls(starts.astype(np.int32), columns.astype(np.int32), dense[rows, columns])


def real_dft(rows: AnyArray, out: AnyArray) -> None:
    """Write the DFT of every row of float ``rows`` [n, n_fft] into the columns of complex ``out`` [n_fft // 2 + 1, n]."""
    _dft()(rows, out)


def sparse_product(matrix: SparseRows, x: Float32Array, out: Float32Array) -> None:
    """Write ``matrix`` @ ``x`` [n_columns, n] into ``out`` [n_rows, n]; both lie in memory row by row.

    Every sum runs over the row's values in their order, whatever n is.
    """
    _product()(matrix, x, out)


@lru_cache(maxsize=1)
def _dft() -> Callable[[AnyArray, AnyArray], None]:
    def fast(rows: AnyArray, out: AnyArray) -> None:
        r2c(rows, (1,), True, 0, out.T, 1)  # array, axes, forward, normalisation, out, threads

    def public(rows: AnyArray, out: AnyArray) -> None:
        out.T[:] = scipy_rfft(rows, axis=1)

    for name in ("pocketfft", "duccfft"):  # until scipy 1.17; from 1.18 on
        try:
            r2c = _extension("fft", f"_{name}", f"py{name}").r2c
            found = np.zeros((3, 2), dtype=np.complex64)
            fast(np.eye(2, 4, dtype=np.float32), found)
            if found.tolist() == [[1, 1], [1, -1j], [1, -1]]:
                return fast
        except (ImportError, AttributeError, TypeError, ValueError):
            continue
    from scipy.fft import rfft as scipy_rfft

    return public


@lru_cache(maxsize=1)
def _product() -> Callable[[SparseRows, AnyArray, AnyArray], None]:
    def fast(matrix: SparseRows, x: AnyArray, out: AnyArray) -> None:
        out.fill(0)
        csr_matvecs(*_shape(x, out), *matrix, x.reshape(-1), out.reshape(-1))

    def public(matrix: SparseRows, x: AnyArray, out: AnyArray) -> None:
        starts, columns, values = matrix
        out[:] = csr_array((values, columns, starts), shape=(len(out), len(x))) @ x

    try:
        csr_matvecs = _extension("sparse", "_sparsetools").csr_matvecs
        found = np.full((2, 2), 9, dtype=np.float32)
        fast(SparseRows.of(np.array([[0, 2], [3, 4]], dtype=np.float32)), np.eye(2, dtype=np.float32), found)
        if found.tolist() == [[0, 2], [3, 4]]:
            return fast
    except (ImportError, AttributeError, TypeError, ValueError):
        pass
    from scipy.sparse import csr_array

    return public


def _shape(x: AnyArray, out: AnyArray) -> tuple[int, int, int]:
    return len(out), len(x), x.shape[1]


def _extension(*path: str) -> Any:
    """Load an extension module of scipy, running none of the packages it lies in; ImportError where it is not there."""
    package = find_spec("scipy")
    if package is None or not package.submodule_search_locations:
        raise ImportError("scipy is not installed")
    folder = Path(package.submodule_search_locations[0]).joinpath(*path[:-1])
    spec = PathFinder.find_spec(".".join(("scipy", *path)), [str(folder)])
    if spec is None or spec.loader is None:
        raise ImportError(f"no {path[-1]} in {folder}")
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
