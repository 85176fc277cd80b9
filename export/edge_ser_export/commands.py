"""The command-line verb of the export side; torch and onnx are imported when it runs."""

from __future__ import annotations

from pathlib import Path

import click

from edge_ser.cli import require_extra


@click.command(short_help="Turn a training run into a model file.")
@click.argument("run", type=click.Path(path_type=Path))
@click.option("-o", "--output", required=True, type=click.Path(path_type=Path), help="The model file to write, *.onnx.")
def export(run: Path, output: Path) -> None:
    """Write the best weights of RUN as one self-describing ONNX file and verify it against the network."""
    require_extra("export", "torch", "safetensors", "onnx")
    from edge_ser_export.exporter import export_onnx

    result = export_onnx(run, output, lambda line: click.echo(line, err=True))
    click.echo(f"{output}: {output.stat().st_size / 1e6:.2f} MB, float32")
    click.echo(
        f"against torch on {result.n_inputs} inputs: logits within {result.max_logit_error:.1e}, "
        f"embedding within {result.max_embedding_error:.1e}, streamed against whole {result.max_streaming_error:.1e}"
    )
