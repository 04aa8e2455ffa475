"""`geoseg`: the group of commands. Each is imported when it is called, so that --help stays fast."""

from __future__ import annotations

import os
from importlib import import_module

import click

_COMMANDS = {
    "demo": ("geoseg.cli.demo", "Make a scene, train, predict, evaluate: the whole way in minutes."),
    "predict": ("geoseg.cli.predict", "Label every pixel of scenes: rasters, GeoPackage, manifest."),
    "plan": ("geoseg.cli.plan", "Tiles, duplicated work, memory, disk and time of a prediction."),
    "vectorize": ("geoseg.cli.vectorize", "Polygons of any class raster, styled, in a GeoPackage."),
    "train": ("geoseg.cli.train", "Train a model package from scenes and labels."),
    "evaluate": ("geoseg.cli.evaluate", "Score a map, raster and polygons, against reference labels."),
    "sample": ("geoseg.cli.sample", "Draw points of a map to be labelled: a stratified random sample."),
    "accuracy": ("geoseg.cli.accuracy", "Accuracy and areas, with intervals, from labelled points."),
    "calibrate": ("geoseg.cli.calibrate", "Measure the temperature that makes confidence honest."),
    "info": ("geoseg.cli.info", "What a scene or a model is, and whether they fit together."),
    "export": ("geoseg.cli.export", "A model package as one ONNX file that any runtime predicts from."),
    "wrap": ("geoseg.cli.wrap", "A model package from an ONNX file made elsewhere."),
    "models": ("geoseg.cli.models", "Every architecture, with its paper."),
}


class _LazyGroup(click.Group):
    """Knows names and one-line helps without importing any command."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's signature
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        if cmd_name not in _COMMANDS:
            return None
        command: click.Command = import_module(_COMMANDS[cmd_name][0]).command
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in _COMMANDS.items()])


@click.group("geoseg", cls=_LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="geoseg")
def main() -> None:
    """Whole satellite scenes to land-use maps.

    Exit codes: 0 complete, 1 failed, 2 usage or configuration, 3 partly done.
    """
    # Idle OpenMP threads must sleep: spinning costs up to four times the CPU on a busy machine.
    # It is read when torch is imported, so it is set here, before any command runs.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
