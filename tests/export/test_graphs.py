"""The graphs that are exported are those that the runtime takes."""

from __future__ import annotations

import importlib.util
import itertools
from pathlib import Path

import pytest

from edge_ser.model.graph import expected_graph

_SPEC = importlib.util.spec_from_file_location("make_graphs", Path(__file__).parents[1] / "golden" / "make_graphs.py")
assert _SPEC is not None
assert _SPEC.loader is not None
make_graphs = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(make_graphs)


@pytest.mark.parametrize("n_labels", [2, 7])
@pytest.mark.parametrize(
    ("form", "precision", "n_bins"), list(itertools.product(make_graphs.FORMS, make_graphs.PRECISIONS, make_graphs.BINS))
)
def test_an_exported_graph_is_an_expected_one(form: str, precision: str, n_bins: int, n_labels: int) -> None:
    found = make_graphs.described(form, precision, n_bins, n_labels).splitlines()
    assert found == expected_graph(form, precision, n_bins, n_labels), "run: python tests/golden/make_graphs.py"
