"""`geoseg models`."""

from __future__ import annotations

import click

from geoseg.cli.console import Console, command_options
from geoseg.models.catalogue import architectures


@click.command("models")
@click.option("--encoders", metavar="NAME", help="List the encoders that work with one architecture.")
@command_options
def command(*, console: Console, encoders: str | None) -> None:
    """List every architecture, or the encoders of one."""
    if encoders is not None:
        from geoseg.models.registry import encoders as encoders_of

        names = encoders_of(encoders)
        console.result({"architecture": encoders, "encoders": list(names)}, list(names))
        return
    infos = architectures().values()
    document = {
        "architectures": [
            {"name": i.name, "summary": i.summary, "paper": i.paper, "default_encoder": i.default_encoder}
            for i in infos
        ]
    }
    lines = [f"{i.name:<14} {i.summary}\n{'':<14} {i.paper}" for i in infos]
    console.result(document, lines)
