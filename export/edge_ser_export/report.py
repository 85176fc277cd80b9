"""The report of an export, as text for people."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from edge_ser_export.quantize import LayerCoverage
from edge_ser_export.verification import Agreement, Verification


@dataclass(frozen=True)
class FileReport:
    """What is known of one exported file."""

    file: str
    format: str
    bytes: int
    scheme: str
    weights_int8_percent: float
    macs_int8_percent: float
    layers: tuple[LayerCoverage, ...]
    verification: Verification
    agreement: Agreement | None
    against_onnx: Agreement | None
    """Of C sources: against the int8 ONNX file of the same integers."""
    state_bytes: int | None
    """Of C sources: the memory a stream takes; ``bytes`` are constants."""
    engine: str


def format_report(reports: Sequence[FileReport], times: dict[str, dict[str, float]]) -> str:
    """Return the report as text for people, within 110 columns."""
    lines = []
    for r in reports:
        lines.append(f"{r.file}: {r.bytes / 1e6:.3f} MB, {r.scheme}")
        v = r.verification
        if r.layers:
            lines.append(f"  weights int8 {r.weights_int8_percent:.1f} %, multiply-accumulates int8 {r.macs_int8_percent:.1f} %")
        if r.agreement is None:
            lines.append(
                f"  against torch on {v.n_inputs} inputs: logits within {v.max_logit_error:.1e}, embedding within "
                f"{v.max_embedding_error:.1e}"
            )
        else:
            a = r.agreement
            ua = "" if a.ua is None or a.ua_float is None else f"; UA {a.ua:.1%}, float {a.ua_float:.1%}"
            lines.append(
                f"  against float on {a.n_clips} clips: same label {a.argmax:.1%}, logits within {a.max_logit_error:.3f}, "
                f"mean {a.mean_logit_error:.4f}{ua}"
            )
        if r.against_onnx is not None and r.state_bytes is not None:
            o = r.against_onnx
            lines.append(
                f"  against int8 ONNX: same label {o.argmax:.1%}, logits within {o.max_logit_error:.3f}, "
                f"mean {o.mean_logit_error:.4f}"
            )
            lines.append(f"  constants {r.bytes} bytes, state {r.state_bytes} bytes")
        lines.append(f"  streamed against whole: {v.max_streaming_error:g}; verified in {r.engine}")
    if times:
        reference = times["float ONNX"]
        lines.append(f"  {'median ms, one thread, graph alone':<36}" + "".join(f"{s:>18}" for s in reference))
        for name, of in times.items():
            cells = "".join(f"{of[s]:>9.2f} {reference[s] / of[s]:>6.2f}x " for s in reference)
            lines.append(f"  {name:<36}{cells}")
    return "\n".join(lines)


def format_coverage(reports: Sequence[FileReport]) -> str:
    """Return the coverage layer by layer as text, one table for all formats that have the same."""
    tables: dict[tuple[LayerCoverage, ...], list[str]] = {}
    for r in reports:
        tables.setdefault(r.layers, []).append(r.format)
    lines = []
    for layers, formats in tables.items():
        lines.append(f"  {'layer (' + ', '.join(formats) + ')':<32}{'weights':>9}{'int8':>8}{'kMAC/s':>10}{'int8':>8}")
        for x in layers:
            weights = 100 * x.int8_weights / x.weights
            macs = f"{100 * x.int8_macs_per_s / x.macs_per_s:.0f} %" if x.macs_per_s else "-"
            lines.append(f"  {x.layer:<32}{x.weights:>9}{weights:>6.0f} %{x.macs_per_s / 1e3:>10.0f}{macs:>8}")
    return "\n".join(lines)
