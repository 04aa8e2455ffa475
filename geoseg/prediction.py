"""A scene matched with model packages and planned: everything that is known before anything is computed."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

from geoseg.errors import MismatchError, UsageError, explain
from geoseg.facts import facts_of, plan_facts
from geoseg.inference import Request, Views
from geoseg.manifest import job_id
from geoseg.matching import Mapping, require_match
from geoseg.models.catalogue import describe
from geoseg.package import Card, read_card
from geoseg.planning import Demands, is_global, plan_tiles
from geoseg.raster.scene import geobox_of
from geoseg.tiling import TILE_PX, TilePlan
from geoseg.vector.options import Format, PolygonOptions

if TYPE_CHECKING:
    from pathlib import Path

    from odc.geo.geobox import GeoBox

    from geoseg.raster.aoi import Aoi
    from geoseg.raster.scene import Scene
    from geoseg.stitch import Confidence
    from geoseg.vector.options import Tracing


MOST_MEMBERS = 16
"""Networks that can vote: as many as a process keeps loaded."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PredictOptions:
    """What may be chosen for a prediction; None chooses by the package and the scene."""

    patch_px: int | None = None
    overlap_px: int | None = None
    tile_px: int = TILE_PX
    blend: bool | None = None
    """Weigh overlapping patches instead of splitting overlaps at their midpoint; None: only for networks
    with global context, whose scores depend on where in the patch a pixel lies, however wide the overlap."""
    memory: int | None = None
    """Bytes that a process may take in all; None: 3 GB for each network call, and no more calls at once than
    fit half of this machine's memory."""
    views: Views = "one"
    """Test-time augmentation."""
    confidence: Confidence | None = "probability"
    """What the confidence raster says; None: it is left out."""
    probabilities: bool = False
    """Write the probability of every class, too."""
    polygons: PolygonOptions | None = field(default_factory=PolygonOptions)
    """How polygons are made and written; None: they are left out."""
    mapping: Mapping = field(default_factory=Mapping)

    def __post_init__(self) -> None:
        if self.memory is not None and self.memory < 1:
            raise UsageError(f"memory must be at least 1 byte, not {self.memory}")
        for name, size in (("patch", self.patch_px), ("tile", self.tile_px)):
            if size is not None and size < 1:
                raise UsageError(f"the {name} size must be at least 1 px, not {size}")


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """A scene matched with packages and planned; nothing has been computed."""

    scene: Scene
    """Its bands are those the packages need."""
    packages: tuple[Path, ...]
    """One, or several that vote."""
    cards: tuple[Card, ...]
    plan: TilePlan
    options: PredictOptions
    aoi: Aoi | None = None
    """The area that is wanted; None: the whole scene."""

    @property
    def card(self) -> Card:
        """Of the first package: legend and names are those of all."""
        return self.cards[0]

    @property
    def geobox(self) -> GeoBox:
        """The product's grid: the scene's, or the part of it that is wanted."""
        return geobox_of(self.scene.geobox, self.plan.window)

    @property
    def request(self) -> Request:
        """What is wanted of each tile."""
        mapping = self.options.mapping
        return Request(
            classes=len(self.card.legend),
            blend=self.plan.blend,
            confidence=self.options.confidence,
            probabilities=self.options.probabilities,
            views=self.options.views,
            scale=1.0 if mapping.scale is None else mapping.scale,
            offset=mapping.offset,
            temperature=self.card.temperature if len(self.cards) == 1 else None,
        )

    @cached_property
    def tracing(self) -> Tracing | None:
        """How tiles are traced; None: not at all."""
        if self.options.polygons is None:
            return None
        legend = self.card.legend
        return self.options.polygons.on(self.geobox, nodata=legend.nodata, ids=legend.ids.tolist())

    @property
    def formats(self) -> tuple[Format, ...]:
        """Files of polygons."""
        polygons = self.options.polygons
        return () if polygons is None else polygons.formats or ("gpkg",)

    @property
    def call_bytes(self) -> int | None:
        """What one network call takes; None: nobody has measured it."""
        per_px = self.demands.call_bytes_per_px
        return None if per_px is None else per_px * self.patch_px**2

    def job_bytes(self, calls: int) -> int | None:
        """What a process takes in all that makes so many calls at once; None: nobody has measured a call."""
        if self.demands.call_bytes_per_px is None:
            return None
        return self.demands.job_bytes(self.patch_px, calls=calls)

    @property
    def patch_px(self) -> int:
        """Side of a square as large as a patch, which is smaller than planned where the scene is."""
        lattice = self.plan.lattice
        return math.isqrt(lattice.rows.length * lattice.cols.length)

    @property
    def demands(self) -> Demands:
        """What the networks ask of patches."""
        return demands_of(self.cards)

    @cached_property
    def job(self) -> str:
        """Id of this job with the reference runtime."""
        return self.job_with("torch")

    def job_with(self, runtime: str) -> str:
        """Id of this job: equal ids mean equal products, where the runtime is named.

        With "auto", another machine or day may choose another one, whose map may differ in a few pixels.
        """
        return job_id(
            scene=self.scene.fingerprint,
            package="+".join(card.fingerprint for card in self.cards),
            plan=plan_facts(self.plan),
            options=self.option_facts | {"runtime": runtime},
        )

    @property
    def option_facts(self) -> dict[str, Any]:
        """The options that shape the product, for the manifest."""
        mapping = self.options.mapping
        return {
            "blend": self.plan.blend,
            "views": self.options.views,
            "confidence": self.options.confidence,
            "probabilities": self.options.probabilities,
            "polygons": None if self.options.polygons is None else self.options.polygons.facts,
            "scale": mapping.scale,
            "offset": mapping.offset,
            "aoi": None if self.aoi is None else self.aoi.digest,
        }


def prepare(
    scene: Scene, packages: Path | Sequence[Path], options: PredictOptions, *, aoi: Aoi | None = None
) -> Prediction:
    """The scene matched with the packages and cut into tiles. Reads headers only.

    Raises:
        PackageError: a package cannot be trusted.
        MismatchError: the scene is not what a package was made for, or packages do not go together.
        UsageError: patch or overlap do not fit the network's stride.
    """
    paths = tuple(packages) if isinstance(packages, Sequence) else (packages,)
    if not 0 < len(paths) <= MOST_MEMBERS:
        raise UsageError(f"give 1 to {MOST_MEMBERS} model packages, not {len(paths)}")
    cards = tuple(read_card(path) for path in paths)
    require_one_legend(paths, cards)
    facts = facts_of(scene)
    for card in cards:
        require_match(card, facts, options.mapping)
    plan = plan_tiles(
        scene.window.shape,
        demands_of(cards),
        patch_px=options.patch_px,
        overlap_px=options.overlap_px,
        tile_px=options.tile_px,
        blend=options.blend,
        memory=options.memory,
        extent=None if aoi is None else aoi.extent,
    )
    names = tuple(dict.fromkeys(name for card in cards for name in card.band_names))
    prediction = Prediction(
        scene=scene.select(names),
        packages=tuple(path.resolve() for path in paths),
        cards=cards,
        plan=plan,
        options=options,
        aoi=aoi,
    )
    if options.polygons is not None:
        options.polygons.require_possible(prediction.geobox)
    return prediction


def demands_of(cards: Sequence[Card]) -> Demands:
    """What the networks of all `cards` ask of patches."""
    return Demands.of(cards, blend=any(has_global_context(card) for card in cards))


def has_global_context(card: Card) -> bool:
    """True when a score depends on the whole patch: as measured, else as the architecture is known to."""
    known = card.architecture is not None and describe(card.architecture.name).context == "global"
    return is_global(card, unmeasured=known)


def require_one_legend(paths: Sequence[Path], cards: Sequence[Card]) -> None:
    """Returns when networks can vote.

    Raises:
        MismatchError: their classes differ.
    """
    first = [(c.id, c.name) for c in cards[0].legend.classes]
    for path, card in zip(paths, cards, strict=True):
        if [(c.id, c.name) for c in card.legend.classes] != first:
            raise MismatchError(
                explain(
                    "networks with different classes cannot vote",
                    at=path,
                    expected=f"{', '.join(cards[0].legend.names)}, as in {paths[0]}",
                    found=", ".join(card.legend.names),
                    change="Predict with each of them by itself.",
                )
            )
