"""Tiled equals whole: for networks of known receptive field, in every pixel, borders included.

The whole image goes through the network in one call; then the scene goes through it tile by tile, each tile
given no more than its reach. Labels must be the same to the bit and scores to 1e-5. That holds when margins
cover the receptive field and patches lie on the stride; without either it must not, or nothing was tested.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
import torchvision
from torch import nn
from torch.nn import functional

from geoseg.inference import Member, Request, segment_tile
from geoseg.models import fcn, segnet
from geoseg.models.context import measure_context, texture
from geoseg.models.segmenter import Segmenter
from geoseg.package import Band
from geoseg.stitch import decide, softmax
from geoseg.tiling import Lattice, TilePlan
from geoseg.windows import Window

BANDS = 3
CLASSES = 4


class Strided(nn.Module):
    """Stride 4: two strided convolutions, nearest up-sampling, a skip.

    Pixel 12 has enough room: it sees 11, in block 2; that sees block 1, which sees 3 at stride 2, then 1 at
    stride 2, then pixel 1, then 0. Pixel 8 ends up at -1 on the way.
    """

    stride_px, radius_px = 4, 12

    def __init__(self) -> None:
        super().__init__()
        self.fine = nn.Conv2d(BANDS, 8, 3, padding=1)
        self.second = nn.Conv2d(8, 8, 3, stride=2, padding=1)
        self.fourth = nn.Conv2d(8, 8, 3, stride=2, padding=1)
        self.coarse = nn.Conv2d(8, 8, 3, padding=1)
        self.head = nn.Conv2d(16, CLASSES, 3, padding=1)

    def forward(self, x):
        fine = functional.relu(self.fine(x))
        coarse = functional.relu(self.fourth(functional.relu(self.second(fine))))
        up = functional.interpolate(functional.relu(self.coarse(coarse)), scale_factor=4)
        return self.head(torch.cat([fine, up], dim=1))


class Pooled(nn.Module):
    """Stride 8: maximum, mean, transposed convolution, bilinear up-sampling that keeps the phase.

    Pixel 24 has enough room: it sees 23, in block 5 of stride 4; that sees block 4, in block 2 of stride 8;
    that sees block 1, from pixel 8 on, which sees pixel 6. Pixel 16 ends up at -2.
    """

    stride_px, radius_px = 8, 24

    def __init__(self) -> None:
        super().__init__()
        self.fine = nn.Conv2d(BANDS, 6, 5, padding=2)
        self.coarse = nn.Conv2d(6, 6, 3, padding=1)
        self.up = nn.ConvTranspose2d(6, 6, 2, stride=2)
        self.head = nn.Conv2d(6, CLASSES, 3, padding=1)

    def forward(self, x):
        x = functional.max_pool2d(functional.relu(self.fine(x)), 2)
        x = functional.avg_pool2d(x, 4)
        x = self.up(functional.relu(self.coarse(x)))
        x = functional.interpolate(x, scale_factor=4, mode="bilinear", align_corners=False)
        return self.head(x)


class ShortEncoder(nn.Module):
    """Five halvings that each look at their own four pixels only, with features of every stride."""

    def __init__(self) -> None:
        super().__init__()
        self.out_channels = [BANDS, *[6] * 5]
        self.halvings = nn.ModuleList(nn.Conv2d(n, 6, 2, stride=2) for n in self.out_channels[:-1])

    def forward(self, x):
        features = [x]
        for halve in self.halvings:
            features.append(functional.relu(halve(features[-1])))
        return features


@dataclass(frozen=True, kw_only=True)
class Case:
    """A network that is sure of itself, and how far it looks.

    It computes in double precision: in single precision another size of patch may round otherwise, and where
    two classes are equally likely to 1e-6 either may win.
    """

    model: Segmenter
    radius_px: int

    def __call__(self, batch: np.ndarray) -> np.ndarray:
        precision = next(self.model.parameters()).dtype
        with torch.inference_mode():
            return self.model(torch.from_numpy(batch).to(precision)).numpy()

    @property
    def stride_px(self) -> int:
        return self.model.stride_px


def calibrated(network: nn.Module, *, stride_px: int, radius_px: int) -> Case:
    """Statistics and last layer such that all classes occur and scores lie well apart."""
    images = torch.from_numpy(texture(BANDS, 128, seed=5))
    norms = [m for m in network.modules() if isinstance(m, nn.BatchNorm2d)]
    for norm in norms:
        norm.momentum = None
        norm.reset_running_stats()
    with torch.no_grad():
        network.train()
        network(images)
        network.eval()
        scores = network(images)
    mean, std = scores.mean((0, 2, 3), keepdim=True), scores.std((0, 2, 3), keepdim=True)
    sure = nn.Conv2d(CLASSES, CLASSES, 1)
    with torch.no_grad():
        sure.weight.copy_(torch.diag(2 / std.flatten())[:, :, None, None])
        sure.bias.copy_((-2 * mean / std).flatten())
    model = Segmenter(nn.Sequential(network, sure).eval(), stride_px=stride_px)
    return Case(model=model.double(), radius_px=radius_px)


def short_segnet() -> Case:
    """Three stages of one convolution each, down and up.

    Pixel 16 has enough room: it sees 15, in block 7 of stride 2; then 6, in block 3 of stride 4; then 2, in
    block 1 of stride 8; there it sees 1 of stride 4, 1 of stride 2, and pixel 1. Pixel 8 ends up at -1.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(torchvision.models.vgg.cfgs, "short", [6, "M", 8, "M", 8, "M"])
        patch.setitem(segnet.VGG_CONFIGURATIONS, "short", "short")
        network = segnet.SegNet(encoder_name="short", in_channels=BANDS, classes=CLASSES)
    return calibrated(network, stride_px=network.stride_px, radius_px=16)


def short_fcn() -> Case:
    """FCN-8s whose encoder looks at blocks of 32 px only.

    Pixel 128 has enough room: it sees block 15 of stride 8, 7 of stride 16 and 3 of stride 32, where fc6 sees
    block 0. Pixel 96 ends up at block -1.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fcn.smp.encoders, "get_encoder", lambda *_, **__: ShortEncoder())
        network = fcn.FCN8s(encoder_name="short", in_channels=BANDS, classes=CLASSES, head_channels=8)
    for score in network.skip_scores:  # zero at first: they would say nothing
        nn.init.normal_(score.weight, std=0.3)
    return calibrated(network, stride_px=32, radius_px=128)


@pytest.fixture(scope="module")
def cases() -> dict[str, Case]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        made = {
            "strided": calibrated(Strided(), stride_px=4, radius_px=Strided.radius_px),
            "pooled": calibrated(Pooled(), stride_px=8, radius_px=Pooled.radius_px),
            "segnet": short_segnet(),
            "fcn8s": short_fcn(),
        }
    yield made
    torch.set_num_threads(threads)


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What was said about a scene: labels, confidence in percent, and the scores behind them."""

    index: np.ndarray
    confidence: np.ndarray
    scores: np.ndarray


def whole(case: Case, scene: np.ndarray) -> Answer:
    scores = case(scene[None])[0]
    decision = decide(scores, confidence="probability")
    return Answer(index=decision.index, confidence=decision.confidence, scores=scores)


def tiled(case: Case, scene: np.ndarray, lattice: Lattice, *, tile_px: int) -> Answer:
    """Tile by tile; scores are taken where `segment_tile` takes them, from the patch that decides a pixel."""
    shape = scene.shape[1:]
    index, confidence = np.full(shape, 77, np.uint8), np.full(shape, 77, np.uint8)
    scores = np.full((CLASSES, *shape), np.nan, np.float32)
    said: list[np.ndarray] = []

    def predict(batch: np.ndarray) -> np.ndarray:
        logits = case(batch)
        said.extend(logits)
        return logits

    plain = tuple(Band(name=str(i), mean=0, std=1) for i in range(BANDS))
    member = Member(predictor=predict, bands=plain, where=tuple(range(BANDS)))
    for tile in TilePlan(lattice=lattice, tile_px=tile_px):
        said.clear()
        origin = tile.reach.intersect(Window(0, 0, *shape))
        here = origin.slices()
        out = segment_tile(
            scene[(slice(None), *here)],
            np.ones(origin.shape, bool),
            tile,
            [member],
            Request(classes=CLASSES, batch_size=2),
            origin=origin,
        )
        index[tile.core.slices()], confidence[tile.core.slices()] = out.index, out.confidence
        for patch, logits in zip(tile.patches, said, strict=True):
            own = patch.support.intersect(tile.core)
            scores[(slice(None), *own.slices())] = logits[(slice(None), *own.slices(origin=patch.window))]
    return Answer(index=index, confidence=confidence, scores=scores)


def assert_equal(tiles: Answer, image: Answer) -> None:
    assert np.array_equal(tiles.index, image.index)
    assert np.abs(tiles.scores - image.scores).max() <= 1e-5
    assert np.abs(softmax(tiles.scores) - softmax(image.scores)).max() <= 1e-5
    # Whole percents: one may be rounded up and the other down.
    differs = tiles.confidence.astype(int) - image.confidence
    assert np.abs(differs).max() <= 1
    assert np.count_nonzero(differs) <= 1e-4 * differs.size + 1


def scene_of(height: int, width: int) -> np.ndarray:
    side = max(height, width)
    return np.ascontiguousarray(texture(BANDS, side, seed=side, count=1)[0, :, :height, :width])


@pytest.mark.parametrize("name", ["strided", "pooled", "segnet", "fcn8s"])
def test_the_known_radius_is_what_is_measured(cases, name: str) -> None:
    case = cases[name]
    samples = texture(BANDS, 768, seed=2)
    found = measure_context(case, samples, stride_px=case.stride_px, tolerance=1e-5)
    assert found.radius_px == case.radius_px


@pytest.mark.parametrize("name", ["strided", "pooled", "segnet"])
@pytest.mark.parametrize("extra", [1, 3], ids=["narrow", "wide"])
def test_tiles_equal_the_whole_image(cases, name: str, extra: int) -> None:
    """From 1 px to three patches, on and off the stride, in both directions, for several sizes of tiles."""
    case = cases[name]
    stride, overlap = case.stride_px, 2 * case.radius_px
    patch = overlap + extra * 2 * stride
    sizes = (1, stride - 1, stride, patch - 1, patch, patch + 1, 2 * patch, 3 * patch - 3, 3 * patch)
    labels = np.zeros(CLASSES, int)
    for i, height in enumerate(sizes):
        for width in (height, sizes[-1 - i], sizes[(i + 4) % len(sizes)]):
            scene = scene_of(height, width)
            image = whole(case, scene)
            labels += np.bincount(image.index.ravel(), minlength=CLASSES)
            lattice = Lattice.of((height, width), patch_px=patch, overlap_px=overlap, stride_px=stride)
            for tile_px in (1, 2 * patch):
                assert_equal(tiled(case, scene, lattice, tile_px=tile_px), image)
    assert (labels > 0.02 * labels.sum()).all(), "all classes occur"


@pytest.mark.parametrize("shape", [(1, 1), (33, 700), (320, 319), (641, 960)])
def test_tiles_equal_the_whole_image_for_a_network_that_looks_far(cases, shape: tuple[int, int]) -> None:
    case = cases["fcn8s"]
    overlap = 2 * case.radius_px
    scene = scene_of(*shape)
    image = whole(case, scene)
    lattice = Lattice.of(shape, patch_px=overlap + 64, overlap_px=overlap, stride_px=case.stride_px)
    for tile_px in (64, 1000):
        assert_equal(tiled(case, scene, lattice, tile_px=tile_px), image)


@pytest.mark.parametrize("name", ["strided", "pooled", "segnet", "fcn8s"])
def test_in_single_precision_only_ties_are_left(cases, name: str) -> None:
    """As networks run: probabilities to 1e-5, and labels wherever the two best scores are that far apart."""
    case = replace(cases[name], model=copy.deepcopy(cases[name].model).float())
    overlap = 2 * case.radius_px
    patch = overlap + 2 * case.stride_px
    scene = scene_of(2 * patch + 1, 3 * patch - 1)
    image = whole(case, scene)
    lattice = Lattice.of(scene.shape[1:], patch_px=patch, overlap_px=overlap, stride_px=case.stride_px)
    out = tiled(case, scene, lattice, tile_px=patch)
    assert np.abs(softmax(out.scores) - softmax(image.scores)).max() <= 1e-5
    second, best = np.sort(image.scores, axis=0)[-2:]
    apart = best - second > 1e-5 * (1 + np.abs(best))
    assert apart.mean() > 0.99
    assert np.array_equal(out.index[apart], image.index[apart])


@pytest.mark.parametrize("name", ["strided", "pooled", "segnet", "fcn8s"])
def test_a_margin_one_stride_too_small_is_not_equal(cases, name: str) -> None:
    case = cases[name]
    patch = 2 * case.radius_px + 2 * case.stride_px
    scene = scene_of(2 * patch, 2 * patch + 3)
    image = whole(case, scene)
    overlap = 2 * (case.radius_px - case.stride_px)
    lattice = Lattice.of(scene.shape[1:], patch_px=patch, overlap_px=overlap, stride_px=case.stride_px)
    out = tiled(case, scene, lattice, tile_px=patch)
    assert np.abs(out.scores - image.scores).max() > 1e-3


@pytest.mark.parametrize("name", ["strided", "pooled", "segnet", "fcn8s"])
def test_patches_off_the_stride_are_not_equal(cases, name: str) -> None:
    """However large the margin: the network samples other pixels."""
    case = cases[name]
    overlap = 2 * case.radius_px
    patch = overlap + 2 * case.stride_px + 1
    scene = scene_of(2 * patch, 2 * patch)
    image = whole(case, scene)
    lattice = Lattice.of(scene.shape[1:], patch_px=patch, overlap_px=overlap, stride_px=1)
    out = tiled(case, scene, lattice, tile_px=patch)
    assert np.abs(out.scores - image.scores).max() > 1e-3
    assert np.mean(out.index != image.index) > 0.01
