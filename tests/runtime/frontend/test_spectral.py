"""The compiled functions taken from scipy: its public ones bit for bit, with it, without it and beside it."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import scipy.fft
import scipy.sparse
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_ser.frontend import spectral as kernels
from edge_ser.frontend.features import FRONT_ENDS, LOGMEL_V1, LOGSTFT_V1, extract, mel_filterbank
from edge_ser.frontend.spectral import SparseRows, real_dft, sparse_product
from tests.commanding import python

RNG = np.random.default_rng(3)


@pytest.fixture
def fresh() -> Iterator[None]:
    """The functions are looked for anew, before and after."""
    kernels._dft.cache_clear()
    kernels._product.cache_clear()
    yield
    kernels._dft.cache_clear()
    kernels._product.cache_clear()


@settings(max_examples=50, deadline=None)
@given(n=st.integers(1, 70), n_fft=st.sampled_from([4, 64, 1024]), dtype=st.sampled_from(["float32", "float64"]))
def test_the_dft_is_scipys(n: int, n_fft: int, dtype: str) -> None:
    rows = RNG.standard_normal((n, n_fft)).astype(dtype)
    out = np.full((n_fft // 2 + 1, n), np.nan, dtype=np.result_type(np.dtype(dtype), np.complex64))
    real_dft(rows, out)
    assert np.array_equal(out.T, scipy.fft.rfft(rows, axis=1))


@settings(max_examples=50, deadline=None)
@given(n=st.integers(1, 70))
def test_the_sparse_product_is_scipys(n: int) -> None:
    mel = mel_filterbank(LOGMEL_V1)
    x = RNG.standard_normal((513, n)).astype(np.float32)
    out = np.full((128, n), np.nan, dtype=np.float32)
    sparse_product(SparseRows.of(mel), x, out)
    assert np.array_equal(out, scipy.sparse.csr_array(mel) @ x)


def test_an_empty_row_of_a_sparse_matrix_gives_zero() -> None:
    matrix = SparseRows.of(np.array([[0, 0], [0, 5], [0, 0]], dtype=np.float32))
    out = np.ones((3, 1), dtype=np.float32)
    sparse_product(matrix, np.array([[1], [2]], dtype=np.float32), out)
    assert out.tolist() == [[0], [10], [0]]


def _absent(*path: str) -> None:
    raise ImportError


class _Changed:
    """What a later scipy might have under the same names."""

    @staticmethod
    def r2c(*arguments: object) -> None:
        """Take the arguments and write nothing."""

    @staticmethod
    def csr_matvecs(one: object) -> None:
        """Take other arguments."""


@pytest.mark.parametrize("extension", [_absent, lambda *path: _Changed, lambda *path: object()])
@pytest.mark.parametrize("config", [LOGMEL_V1, LOGSTFT_V1], ids=lambda config: str(config.name))
def test_where_they_are_not_the_public_ones_do_the_same(
    fresh: None, monkeypatch: pytest.MonkeyPatch, extension: object, config: object
) -> None:
    samples = (0.1 * RNG.standard_normal(30_000)).astype(np.float32)
    expected = extract(samples, config)  # type: ignore[arg-type]
    kernels._dft.cache_clear()
    kernels._product.cache_clear()
    monkeypatch.setattr(kernels, "_extension", extension)
    assert np.array_equal(extract(samples, config), expected)  # type: ignore[arg-type]
    assert kernels._dft().__name__ == "public"


def test_they_are_found_in_the_scipy_that_is_installed(fresh: None) -> None:
    """Fails where a new scipy has moved them: answers stay right, and cost 0.2 s and 20 MB more at the start."""
    assert kernels._dft().__name__ == "fast"
    assert kernels._product().__name__ == "fast"


@pytest.mark.parametrize("order", ["scipy first", "scipy last"])
def test_scipy_works_beside_them(order: str) -> None:
    ours = "from edge_ser.frontend.features import extract; a = extract(x)"
    theirs = "import scipy.fft, scipy.sparse; f = scipy.fft.rfft(x[:64]); s = scipy.sparse.csr_array(np.eye(3)) @ np.ones(3)"
    first, second = (theirs, ours) if order == "scipy first" else (ours, theirs)
    code = (
        f"import numpy as np; x = np.sin(np.arange(9000, dtype=np.float32)); {first}; {second}\n"
        "assert np.allclose(f, np.fft.rfft(x[:64]), atol=1e-4) and s.tolist() == [1, 1, 1]\n"
        "print(a.astype(np.float64).sum().hex())"
    )
    samples = np.sin(np.arange(9000, dtype=np.float32))
    assert python(code).strip() == extract(samples).astype(np.float64).sum().hex()


def test_every_front_end_is_unchanged_by_its_memory_layout() -> None:
    samples = (0.1 * RNG.standard_normal(60_000)).astype(np.float32)
    for config in FRONT_ENDS.values():
        assert np.array_equal(extract(samples[::2], config), extract(samples[::2].copy(), config))
