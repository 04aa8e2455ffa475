"""`geoseg wrap`."""

from __future__ import annotations

from pathlib import Path

import click

from geoseg.cli.console import Console, command_options


@click.command("wrap")
@click.argument("graph", type=click.Path(), metavar="MODEL.onnx")
@click.argument("card", type=click.Path(), metavar="CARD.json")
@click.option("-o", "--out", required=True, type=click.Path(), metavar="PACKAGE", help="Package to write.")
@click.option("--overwrite", is_flag=True, help="Replace PACKAGE if it is one.")
@command_options
def command(*, console: Console, graph: str, card: str, out: str, overwrite: bool) -> None:
    """Make a package of an ONNX file that comes from elsewhere and a card that says what it needs.

    CARD.json names the bands in order and how each is normalised, the classes, the patch size and the stride.
    The network is tried out on random patches, and its context radius and memory are measured.
    """
    from geoseg.models.wrap import wrap

    done = wrap(Path(graph), Path(card), Path(out), overwrite=overwrite)
    context = done.context.model_dump() if done.context else None
    document = {
        "package": out,
        "fingerprint": done.fingerprint,
        "context": context,
        "call_bytes_per_px": done.call_bytes_per_px,
    }
    radius = done.context.radius_px if done.context else None
    reach = "looks at the whole patch" if radius is None else f"looks {radius} px around a pixel"
    memory = f"{done.call_bytes_per_px} bytes of memory" if done.call_bytes_per_px else "memory unknown"
    line = (
        f"{out}: {len(done.bands)} bands, {len(done.legend)} classes; the network keeps its phase on "
        f"{done.stride_px} px, {reach} and takes {memory} per pixel of a patch"
    )
    console.result(document, [line])
