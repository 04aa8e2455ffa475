"""`geoseg calibrate`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from geoseg.cli.console import Console, command_options
from geoseg.cli.references import reference_facts, reference_options
from geoseg.config import LabelSource
from geoseg.errors import UsageError
from geoseg.package import read_card
from geoseg.raster.scene import open_scene
from geoseg.windows import Window


@click.command("calibrate")
@click.argument("model", type=click.Path(), metavar="MODEL")
@click.argument("scene", type=click.Path(), metavar="SCENE")
@click.argument("reference", type=click.Path(), metavar="REFERENCE")
@click.option("--bands", metavar="NAME,...", help="Names of the file's bands in order, '_' leaves one out.")
@click.option("--nodata", type=float, help="Value without data, where the file does not say so.")
@reference_options
@click.option("--window", type=int, nargs=4, metavar="ROW COL HEIGHT WIDTH", help="Look at this part only.")
@click.option("--dry-run", is_flag=True, help="Say what the temperature is, and leave the package as it is.")
@click.option("--runtime", default="torch", show_default=True, help="What runs the network.")
@click.option("--device", default="auto", show_default=True, help="cpu, cuda, cuda:N or auto.")
@command_options
def command(*, console: Console, model: str, scene: str, reference: str, **given: Any) -> None:
    """Measure the temperature of a package on a labelled scene, and store it in the package.

    From then on, confidence and probabilities are those of logits divided by it; classes stay as they are.
    Take a scene that the network has not learnt from: on others it is surer than it should be.
    """
    from geoseg.accuracy.layers import open_reference
    from geoseg.accuracy.temperature import LabelledScene, measure_temperature, store_temperature

    package = Path(model)
    card = read_card(package)
    names = given["bands"].split(",") if given["bands"] else None
    image = open_scene(scene, bands=names, nodata=given["nodata"])
    source = LabelSource(path=reference, **_checked(reference_facts(given)))
    labels = open_reference(source, path=Path(reference), scene=image, legend=card.legend)
    window = image.window if given["window"] is None else Window(*given["window"])
    if not (window.size and image.window.contains(window)):
        raise UsageError(f"the window {window} is not inside {image.name}, {image.window}")
    from geoseg.models.runtime import load_predictor

    _, predictor = load_predictor(package, runtime=given["runtime"], device=given["device"])
    with console.progress("calibrating") as report:
        found = measure_temperature(
            card,
            predictor,
            [LabelledScene(scene=image, labels=labels, window=window)],
            on_progress=lambda done, total: report("patches", done, total),
        )
    stored = None if given["dry_run"] else store_temperature(package, found)
    document = found.model_dump(mode="json") | {
        "model": str(package),
        "fingerprint": None if stored is None else stored.fingerprint,
    }
    line = (
        f"temperature {found.temperature:.3f} from {found.pixels:,} pixels: calibration error "
        f"{100 * found.calibration_error_before:.1f} % -> {100 * found.calibration_error_after:.1f} %"
    )
    console.result(document, [line if stored is None else f"{line}, stored in {package}"])


def _checked(facts: dict[str, Any]) -> dict[str, Any]:
    """What a label source takes, or an error in one paragraph."""
    if facts["column"] is None and (facts["layer"] or facts["classes"]):
        raise UsageError("--layer and --class are for polygons, which also need --column")
    if facts["column"] is not None and facts["remap"]:
        raise UsageError("--remap is for rasters; for polygons use --class")
    return facts
