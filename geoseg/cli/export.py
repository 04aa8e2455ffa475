"""`geoseg export`."""

from __future__ import annotations

from pathlib import Path

import click

from geoseg.cli.console import Console, command_options


@click.command("export")
@click.argument("model", type=click.Path(), metavar="MODEL")
@click.option("-o", "--out", required=True, type=click.Path(), metavar="FILE.onnx", help="File to write.")
@click.option("--overwrite", is_flag=True, help="Replace FILE.onnx if it is there.")
@command_options
def command(*, console: Console, model: str, out: str, overwrite: bool) -> None:
    """Write the package MODEL as one ONNX file: network, bands, normalisation and legend.

    The file is a package like any other: `geoseg predict SCENE -m FILE.onnx -o DIR`. Its answers have been
    compared with PyTorch's.
    """
    from geoseg.models.export import export_onnx
    from geoseg.package import CARD_KEY

    card = export_onnx(Path(model), Path(out), overwrite=overwrite)
    size, made = Path(out).stat().st_size, card.provenance.get("export")
    how = ""
    if made is not None:
        how = f", opset {made['opset']}, logits within {made['max_difference']:.1e} of PyTorch's"
    console.result(
        {"file": out, "bytes": size, "fingerprint": card.fingerprint, "export": made},
        [f"{out}: {size / 1e6:.1f} MB{how}, card under {CARD_KEY!r}"],
    )
