"""One tile against the whole image: identity predictors, networks of known reach, holes in the data."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from geoseg.errors import ExecutionError
from geoseg.inference import Member, Request, TileClasses, normalise, segment_tile
from geoseg.legend import IGNORE_INDEX
from geoseg.package import AffineStep, Band, ClipStep, LogStep, SigmoidStep
from geoseg.stitch import (
    CONFIDENCE_NODATA,
    CONFIDENCES,
    blend_weights,
    certainty,
    decide,
    percent,
    scaled,
    softmax,
)
from geoseg.tiling import Lattice, TilePlan
from geoseg.windows import Window


def members_of(*predictors, bands=1) -> list[Member]:
    """Networks that take the scene's values as they are."""
    plain = tuple(Band(name=str(i), mean=0, std=1) for i in range(bands))
    return [Member(predictor=p, bands=plain, where=tuple(range(bands))) for p in predictors]


def run(
    pixels, valid, *predictors, classes, patch, overlap, stride, tile, blend=False, batch=1, mask=None,
    extent=None, **wanted,
) -> TileClasses:  # fmt: skip
    """The whole scene, tile by tile, each tile given only its reach."""
    lattice = Lattice.of(valid.shape, patch_px=patch, overlap_px=overlap, stride_px=stride)
    index = np.full(valid.shape, 77, np.uint8)
    confidence = np.full(valid.shape, 77, np.uint8)
    probabilities = np.full((classes, *valid.shape), 77, np.uint8)
    request = Request(classes=classes, blend=blend, batch_size=batch, **wanted)
    patches = 0
    for piece in TilePlan(lattice=lattice, tile_px=tile, blend=blend, extent=extent):
        whole = piece.reach.intersect(type(piece.core)(0, 0, *valid.shape))
        here, core = whole.slices(), piece.core.slices()
        out = segment_tile(
            pixels[(slice(None), *here)],
            valid[here],
            piece,
            members_of(*predictors, bands=len(pixels)),
            request,
            origin=whole,
            mask=None if mask is None else mask[core],
        )
        index[core] = out.index
        confidence[core] = out.confidence
        if out.probabilities is not None:
            probabilities[(slice(None), *core)] = out.probabilities
        patches += out.patches
    return TileClasses(index=index, confidence=confidence, probabilities=probabilities, patches=patches)


def one_hot(classes: int):
    """A predictor that reads the class from band 0, sure of itself."""

    def predict(batch: np.ndarray) -> np.ndarray:
        wanted = np.rint(batch[:, 0]).astype(int)
        return np.stack([np.where(wanted == c, 9.0, 0.0) for c in range(classes)], axis=1).astype(np.float32)

    return predict


def pooling_network(batch: np.ndarray) -> np.ndarray:
    """3x3 filter, 2x2 pooling, 3x3 filter, upsampling: stride 2, reach 4 px, zero padding of its own."""
    kernel = np.array([[1, 2, 1], [0, 3, -1], [2, -2, 1]], np.float32)
    out = []
    for image in batch:
        fine = ndimage.correlate(image[0], kernel, mode="constant")
        n, h, w = 1, *fine.shape
        pooled = fine.reshape(n, h // 2, 2, w // 2, 2).max(axis=(0, 2, 4))
        coarse = ndimage.correlate(pooled, kernel[::-1], mode="constant")
        up = coarse.repeat(2, 0).repeat(2, 1)
        out.append(np.stack([np.tanh(fine / 9), np.tanh(up / 40), np.zeros_like(fine)]))
    return np.stack(out).astype(np.float32)


@given(
    height=st.integers(1, 50),
    width=st.integers(1, 50),
    overlap=st.sampled_from([0, 4, 8]),
    tile=st.integers(1, 60),
    blend=st.booleans(),
    batch=st.integers(1, 4),
)
@settings(deadline=None, max_examples=60)
def test_identity_predictor_gives_the_scene_back(height, width, overlap, tile, blend, batch) -> None:
    """Every pixel holds its own row and column: sizes from 1 px to 3 patches, both axes."""
    for axis in (0, 1):
        coordinate = np.indices((height, width), dtype=np.float32)[axis][None]
        valid = np.ones((height, width), bool)
        out = run(
            coordinate, valid, one_hot(50), classes=50, patch=16, overlap=overlap, stride=4, tile=tile,
            blend=blend, batch=batch,
        )  # fmt: skip
        assert np.array_equal(out.index, coordinate[0])


@given(
    height=st.integers(1, 48),
    width=st.integers(1, 48),
    tile=st.integers(1, 60),
    seed=st.integers(0, 99),
    hole=st.booleans(),
)
@settings(deadline=None, max_examples=60)
def test_tiled_equals_whole_image_when_the_margin_covers_the_reach(height, width, tile, seed, hole) -> None:
    rng = np.random.default_rng(seed)
    pixels = rng.normal(size=(1, height, width)).astype(np.float32)
    valid = rng.random((height, width)) > 0.2 if hole else np.ones((height, width), bool)
    pixels[:, ~valid] = 0
    padded = np.pad(pixels, ((0, 0), (0, height % 2), (0, width % 2)))
    scores = pooling_network(padded[None])[0, :, :height, :width]
    out = run(pixels, valid, pooling_network, classes=3, patch=16, overlap=8, stride=2, tile=tile)
    expected = decide(scores, confidence="probability")
    assert np.array_equal(out.index[valid], expected.index[valid])
    assert np.array_equal(out.confidence[valid], expected.confidence[valid])
    assert (out.index[~valid] == IGNORE_INDEX).all()
    assert (out.confidence[~valid] == CONFIDENCE_NODATA).all()


def test_off_the_stride_the_same_network_gives_another_map() -> None:
    """Why origins lie on the stride: shift the image by one pixel and the pooling grid moves."""
    pixels = np.random.default_rng(1).normal(size=(1, 1, 32, 33)).astype(np.float32)
    a = decide(pooling_network(pixels[..., :32])[0]).index[:, 1:]
    b = decide(pooling_network(pixels[..., 1:])[0]).index[:, :-1]
    assert (a[8:-8, 8:-8] != b[8:-8, 8:-8]).any()


@pytest.mark.parametrize("blend", [False, True])
def test_the_map_does_not_depend_on_tile_or_batch_size(blend: bool) -> None:
    rng = np.random.default_rng(0)
    pixels = rng.normal(size=(1, 70, 55)).astype(np.float32)
    valid = rng.random((70, 55)) > 0.1
    pixels[:, ~valid] = 0
    maps = [
        run(pixels, valid, pooling_network, classes=3, patch=16, overlap=4, stride=2, tile=tile, blend=blend,
            batch=batch)
        for tile, batch in ((1, 1), (17, 3), (40, 2), (1000, 5))
    ]  # fmt: skip
    for other in maps[1:]:
        assert np.array_equal(maps[0].index, other.index)
        assert np.array_equal(maps[0].confidence, other.confidence)


def test_patches_without_a_valid_pixel_are_not_computed() -> None:
    valid = np.zeros((64, 64), bool)
    valid[:16, :16] = True
    out = run(np.zeros((1, 64, 64), np.float32), valid, one_hot(2), classes=2, patch=16, overlap=0, stride=4,
              tile=32)  # fmt: skip
    assert out.patches == 1
    assert (out.index[valid] == 0).all()
    assert (out.index[~valid] == IGNORE_INDEX).all()


def test_a_blend_leaves_no_frame_of_nodata_and_its_corner_is_whole() -> None:
    """Weights of zero at the border left a one-pixel frame elsewhere; a spline gave 1.3e-5 in a corner."""
    valid = np.ones((40, 40), bool)
    out = run(np.ones((1, 40, 40), np.float32), valid, one_hot(2), classes=2, patch=16, overlap=8, stride=4,
              tile=16, blend=True)  # fmt: skip
    assert (out.index == 1).all()
    assert (out.confidence == 100).all()
    assert (blend_weights((512, 512)) > 0).all()


def test_a_scene_of_half_a_patch_or_exactly_two_is_not_class_zero() -> None:
    """Sides of at most half a patch gave all class 0 elsewhere, two patches a first column of class 0."""
    for height, width in ((8, 8), (3, 32), (32, 32)):
        valid = np.ones((height, width), bool)
        out = run(np.ones((1, height, width), np.float32), valid, one_hot(3), classes=3, patch=16, overlap=0,
                  stride=4, tile=16)  # fmt: skip
        assert (out.index == 1).all()


def test_normalise_is_the_formula_and_zero_where_not_valid() -> None:
    values = np.array([[[10, 20]], [[100, 0]]], np.uint16)
    valid = np.array([[True, False]])
    bands = [Band(name="a", mean=2.0, std=4.0), Band(name="b", mean=50.0, std=10.0)]
    out = normalise(values, valid, bands, scale=2.0, offset=6.0)
    assert out.dtype == np.float32
    assert out[:, 0, 0] == pytest.approx([(10 * 2 + 6 - 2) / 4, (100 * 2 + 6 - 50) / 10])
    assert out[:, 0, 1].tolist() == [0, 0]


def test_normalise_keeps_nan_out() -> None:
    values = np.array([[[np.nan, 1.0]]], np.float32)
    out = normalise(values, np.array([[False, True]]), [Band(name="a", mean=0, std=1)])
    assert out[0, 0].tolist() == [0, 1]


@pytest.mark.parametrize("shape", [(1, 3, 4), (5, 7, 6), (8, 400, 900), (40, 2, 9000)])
def test_decide_is_arg_max_and_sure_as_softmax_says(shape) -> None:
    """Strip by strip, class by class: what the plain formulas say. Ties go to the lower index."""
    scores = np.random.default_rng(3).integers(-9, 9, shape).astype(np.float32)
    before = scores.copy()
    probabilities = np.exp(scores.astype(float)) / np.exp(scores.astype(float)).sum(axis=0)
    assert np.allclose(softmax(scores), probabilities, atol=1e-6)
    ordered = np.sort(probabilities, axis=0)
    by_hand = {
        "probability": ordered[-1],
        "margin": ordered[-1] - ordered[-2] if len(scores) > 1 else ordered[-1],
        "entropy": 1 + (probabilities * np.log(probabilities)).sum(axis=0) / max(np.log(len(scores)), 1e-9),
    }
    for kind in CONFIDENCES:
        found = decide(scores, confidence=kind)
        assert found.finite
        assert np.array_equal(found.index, scores.argmax(axis=0))
        assert np.abs(found.confidence - 100 * by_hand[kind]).max() <= 0.5 + 1e-3
        assert np.allclose(certainty(softmax(scores), kind), by_hand[kind], atol=1e-5)
    assert np.array_equal(scores, before)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_decide_tells_of_scores_that_are_not_finite(bad) -> None:
    scores = np.zeros((3, 5, 5), np.float32)
    scores[1, 2, 3] = bad
    assert not decide(scores).finite


def test_steps_are_applied_in_order_before_mean_and_spread() -> None:
    values = np.array([[[100, 4000]]], np.uint16)
    steps = (AffineStep(gain=0.005, offset=1), LogStep(), AffineStep(gain=0.5, offset=-0.2), SigmoidStep(),
             ClipStep(min=0.1, max=0.7))  # fmt: skip
    out = normalise(values, np.ones((1, 2), bool), [Band(name="a", steps=steps, mean=0.1, std=2.0)], scale=3)
    x = 1 / (1 + np.exp(-(np.log(values[0, 0] * 3 * 0.005 + 1) * 0.5 - 0.2)))
    assert np.allclose(out[0, 0], (np.clip(x, 0.1, 0.7) - 0.1) / 2, rtol=1e-5)


def test_a_part_of_a_scene_is_mapped_as_in_the_map_of_the_whole() -> None:
    rng = np.random.default_rng(5)
    pixels, valid = rng.normal(size=(1, 70, 90)).astype(np.float32), np.ones((70, 90), bool)
    for blend in (False, True):
        how = {"classes": 3, "patch": 16, "overlap": 4, "stride": 2, "tile": 20, "blend": blend}
        whole = run(pixels, valid, pooling_network, **how)
        extent = Window(13, 31, 22, 40)
        part = run(pixels, valid, pooling_network, **how, extent=extent)
        assert np.array_equal(part.index[extent.slices()], whole.index[extent.slices()])
        assert np.array_equal(part.confidence[extent.slices()], whole.confidence[extent.slices()])
        outside = np.ones_like(valid)
        outside[extent.slices()] = False
        assert (part.index[outside] == 77).all()
        assert part.patches < whole.patches


def test_what_a_mask_leaves_out_is_seen_and_not_answered() -> None:
    rng = np.random.default_rng(6)
    pixels, valid = rng.normal(size=(1, 40, 50)).astype(np.float32), np.ones((40, 50), bool)
    mask = np.zeros_like(valid)
    mask[5:20, 7:30] = True
    how = {"classes": 3, "patch": 16, "overlap": 8, "stride": 2, "tile": 20}
    whole = run(pixels, valid, pooling_network, **how)
    out = run(pixels, valid, pooling_network, **how, mask=mask)
    assert np.array_equal(out.index[mask], whole.index[mask])
    assert (out.index[~mask] == IGNORE_INDEX).all()
    assert (out.confidence[~mask] == CONFIDENCE_NODATA).all()
    assert out.patches < whole.patches


@pytest.mark.parametrize("blend", [False, True])
@pytest.mark.parametrize("views", ["flips", "all"])
def test_views_of_a_patch_vote_with_their_mean_probability(views: str, blend: bool) -> None:
    """Against turning the whole scene, where one patch is the scene."""
    rng = np.random.default_rng(7)
    pixels, valid = rng.normal(size=(1, 12, 16)).astype(np.float32), np.ones((12, 16), bool)
    turns = [(q, m) for m in (False, True) for q in ((0, 2) if views == "flips" else range(4))]
    votes = []
    for quarters, mirrored in turns:
        seen = np.rot90(pixels[:, :, ::-1] if mirrored else pixels, quarters, axes=(1, 2))
        said = np.rot90(softmax(pooling_network(np.ascontiguousarray(seen)[None])[0]), -quarters, axes=(1, 2))
        votes.append(said[..., ::-1] if mirrored else said)
    mean = np.mean(votes, axis=0, dtype=np.float32)
    out = run(pixels, valid, pooling_network, classes=3, patch=16, overlap=0, stride=4, tile=16, views=views,
              blend=blend, probabilities=True)  # fmt: skip
    assert np.array_equal(out.index, mean.argmax(axis=0))
    assert np.abs(out.probabilities.astype(int) - scaled(mean, 250)).max() <= 1


def test_networks_vote_with_their_mean_probability_each_with_its_own_bands() -> None:
    rng = np.random.default_rng(8)
    values, valid = rng.normal(3, 2, size=(2, 24, 24)).astype(np.float32), np.ones((24, 24), bool)
    bands = [Band(name="a", mean=3, std=2), Band(name="b", mean=1, std=5)]
    members = [
        Member(predictor=pooling_network, bands=(bands[0],), where=(0,)),
        Member(predictor=pooling_network, bands=(bands[1],), where=(1,)),
    ]
    lattice = Lattice.of((24, 24), patch_px=24, overlap_px=0, stride_px=2)
    tile = TilePlan(lattice=lattice, tile_px=24).tile(0, 0)
    out = segment_tile(values, valid, tile, members, Request(classes=3), origin=Window(0, 0, 24, 24))
    mean = np.mean(
        [softmax(pooling_network(normalise(values[i : i + 1], valid, [bands[i]])[None])[0]) for i in (0, 1)],
        axis=0,
    )
    assert np.array_equal(out.index, mean.argmax(axis=0))
    assert np.array_equal(out.confidence, percent(mean.max(axis=0)))


def test_probabilities_are_those_of_softmax_and_nothing_where_no_data() -> None:
    rng = np.random.default_rng(9)
    pixels, valid = rng.normal(size=(1, 30, 26)).astype(np.float32), rng.random((30, 26)) > 0.1
    how = {"classes": 3, "patch": 16, "overlap": 8, "stride": 2, "tile": 16}
    plain = run(pixels, valid, pooling_network, **how)
    out = run(pixels, valid, pooling_network, **how, probabilities=True)
    assert np.array_equal(out.index, plain.index)
    assert np.abs(out.confidence.astype(int) - plain.confidence).max() <= 1
    clean = np.where(valid, pixels, 0)
    scores = pooling_network(clean[None])[0]
    assert np.array_equal(out.probabilities[:, valid], scaled(softmax(scores), 250)[:, valid])
    assert (out.probabilities[:, ~valid] == 255).all()


def test_a_predictor_that_decides_itself_is_asked_to() -> None:
    class OnDevice:
        def __call__(self, batch):
            raise AssertionError("scores must stay on the device")

        def decide(self, batch, confidence, temperature=None):
            decisions = [decide(s, confidence=confidence) for s in pooling_network(batch)]
            return np.stack([d.index for d in decisions]), np.stack([d.confidence for d in decisions])

    rng = np.random.default_rng(10)
    pixels, valid = rng.normal(size=(1, 30, 26)).astype(np.float32), rng.random((30, 26)) > 0.1
    how = {"classes": 3, "patch": 16, "overlap": 8, "stride": 2, "tile": 16}
    a, b = run(pixels, valid, pooling_network, **how), run(pixels, valid, OnDevice(), **how, batch=3)
    assert np.array_equal(a.index, b.index)
    assert np.array_equal(a.confidence, b.confidence)


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (
            lambda b: np.zeros((len(b), 2, 4, 4), np.float32),
            r"of shape \(1, 3, 16, 16\); found shape \(1, 2, 4, 4\)",
        ),
        (lambda b: np.full((len(b), 3, 16, 16), np.nan, np.float32), "found scores that are not finite"),
    ],
)
def test_a_network_that_breaks_its_promise_is_named(answer, message: str) -> None:
    valid = np.ones((16, 16), bool)
    with pytest.raises(ExecutionError, match=message):
        run(
            np.zeros((1, 16, 16), np.float32),
            valid,
            answer,
            classes=3,
            patch=16,
            overlap=0,
            stride=4,
            tile=16,
        )
