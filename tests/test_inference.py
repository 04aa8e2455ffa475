"""One tile against the whole image: identity predictors, networks of known reach, holes in the data."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from geoseg.errors import ExecutionError
from geoseg.inference import TileClasses, normalise, segment_tile
from geoseg.legend import IGNORE_INDEX
from geoseg.package import Band
from geoseg.stitch import CONFIDENCE_NODATA, blend_weights, decide, percent, softmax, top_probability
from geoseg.tiling import Lattice, TilePlan


def run(
    pixels, valid, predictor, *, classes, patch, overlap, stride, tile, blend=False, batch=1
) -> TileClasses:
    """The whole scene, tile by tile, each tile given only its reach."""
    lattice = Lattice.of(valid.shape, patch_px=patch, overlap_px=overlap, stride_px=stride)
    index = np.full(valid.shape, 77, np.uint8)
    confidence = np.full(valid.shape, 77, np.uint8)
    patches = 0
    for piece in TilePlan(lattice=lattice, tile_px=tile, blend=blend):
        whole = piece.reach.intersect(type(piece.core)(0, 0, *valid.shape))
        here = whole.slices()
        out = segment_tile(
            pixels[(slice(None), *here)],
            valid[here],
            piece,
            predictor,
            origin=whole,
            classes=classes,
            blend=blend,
            batch_size=batch,
        )
        index[piece.core.slices()] = out.index
        confidence[piece.core.slices()] = out.confidence
        patches += out.patches
    return TileClasses(index=index, confidence=confidence, patches=patches)


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
    assert np.array_equal(out.index[valid], decide(scores)[valid])
    assert np.array_equal(out.confidence[valid], percent(top_probability(scores))[valid])
    assert (out.index[~valid] == IGNORE_INDEX).all()
    assert (out.confidence[~valid] == CONFIDENCE_NODATA).all()


def test_off_the_stride_the_same_network_gives_another_map() -> None:
    """Why origins lie on the stride: shift the image by one pixel and the pooling grid moves."""
    pixels = np.random.default_rng(1).normal(size=(1, 1, 32, 33)).astype(np.float32)
    a = decide(pooling_network(pixels[..., :32])[0])[:, 1:]
    b = decide(pooling_network(pixels[..., 1:])[0])[:, :-1]
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


def test_probability_helpers_agree_with_softmax() -> None:
    scores = np.random.default_rng(3).normal(0, 4, (5, 7, 6)).astype(np.float32)
    probabilities = np.exp(scores.astype(float)) / np.exp(scores.astype(float)).sum(axis=0)
    assert np.allclose(softmax(scores), probabilities, atol=1e-6)
    assert np.allclose(top_probability(scores), probabilities.max(axis=0), atol=1e-6)
    assert np.array_equal(decide(scores), probabilities.argmax(axis=0))


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
