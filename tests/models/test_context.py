"""The context radius of networks that are written so that it is known."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from geoseg.errors import ExecutionError
from geoseg.models.context import measure_context, texture

SAMPLES = texture(2, 400, seed=3)


def predictor(network):
    def predict(images: np.ndarray) -> np.ndarray:
        with torch.inference_mode():
            return network(torch.from_numpy(images)).numpy()

    return predict


def positive(*layers: nn.Module) -> nn.Sequential:
    """All weights positive, so that no path through the network cancels another."""
    network = nn.Sequential(*layers)
    with torch.no_grad():
        for weight in network.parameters():
            weight.uniform_(0.5, 1.5).div_(weight[0].numel() / 4)
    return network


def conv(kernel: int, *, bands: int = 3, out: int = 3, stride: int = 1, dilation: int = 1) -> nn.Conv2d:
    padding = kernel // 2 * dilation
    return nn.Conv2d(bands, out, kernel, stride, padding, dilation, bias=False)


def shifted(*shifts: tuple[int, int, float]):
    """Looks at exactly the pixels so far below and to the right, times a factor; 0 lies outside the image."""

    def predict(images: np.ndarray) -> np.ndarray:
        score = np.zeros_like(images[:, 0])
        height, width = score.shape[1:]
        for down, right, factor in shifts:
            padded = np.pad(images[:, 0], ((0, 0), (abs(down),) * 2, (abs(right),) * 2))
            rows, cols = abs(down) + down, abs(right) + right
            score += np.float32(factor) * padded[:, rows : rows + height, cols : cols + width]
        return np.stack([score, -score], axis=1)

    return predict


def test_a_network_of_single_pixels_has_radius_0() -> None:
    found = measure_context(predictor(positive(conv(1, bands=2), nn.ReLU(), conv(1))), SAMPLES, stride_px=1)
    assert (found.radius_px, found.tolerance) == (0, 0.01)
    assert found.change < 1e-6
    assert found.searched_px >= 64


@pytest.mark.parametrize(
    ("layers", "stride", "radius"),
    [
        ([conv(3, bands=2)], 1, 1),
        ([conv(11, bands=2), conv(1)], 1, 5),
        ([conv(3, bands=2), conv(3, dilation=7)], 1, 8),
        # A coarse pixel looks one fine pixel past its own two, then 2 x 5 with each further layer.
        ([conv(3, bands=2, stride=2), conv(11), conv(11), nn.Upsample(scale_factor=2)], 2, 22),
        ([conv(5, bands=2), nn.AvgPool2d(4), nn.Upsample(scale_factor=4)], 4, 4),  # 2, on the stride
        ([nn.AvgPool2d(4), conv(3, bands=2), nn.Upsample(scale_factor=4, mode="bilinear")], 4, 8),
    ],
)
def test_finite_networks_have_their_exact_radius(layers, stride: int, radius: int) -> None:
    torch.manual_seed(0)
    found = measure_context(predictor(positive(*layers)), SAMPLES, stride_px=stride)
    assert found.radius_px == radius
    assert found.change < 1e-5


@pytest.mark.parametrize("direction", [(1, 0), (-1, 0), (0, 1), (0, -1), (1, 1), (-1, 1)])
@pytest.mark.parametrize("far", [13, 100])
def test_every_side_counts(direction: tuple[int, int], far: int) -> None:
    down, right = direction
    found = measure_context(shifted((far * down, far * right, 1.0)), SAMPLES, stride_px=1)
    assert found.radius_px == far


def test_what_is_weak_is_let_pass_only_where_exactness_is_dear() -> None:
    near, weak = (0, 40, 1.0), (0, 100, 2e-4)
    assert measure_context(shifted(near, (0, 55, 2e-4)), SAMPLES, stride_px=1).radius_px == 55
    found = measure_context(shifted(near, weak), SAMPLES, stride_px=1)
    assert found.radius_px == 40
    assert 1e-5 < found.change <= found.tolerance == 0.01
    assert measure_context(shifted(near, weak), SAMPLES, stride_px=1, tolerance=1e-6).radius_px == 100


def test_the_radius_is_on_the_stride() -> None:
    assert measure_context(shifted((0, 33, 1.0)), SAMPLES, stride_px=32).radius_px == 64
    assert measure_context(shifted((0, 32, 1.0)), SAMPLES, stride_px=32).radius_px == 32


def squeeze(x):
    return x * torch.sigmoid(3 * x.mean((2, 3), keepdim=True))


def pyramid(x):
    coarse = functional.adaptive_avg_pool2d(x, 4)
    return x + functional.interpolate(coarse, x.shape[2:], mode="bilinear")


def corners(x):
    coarse = functional.avg_pool2d(x, 8)
    return functional.interpolate(coarse, x.shape[2:], mode="bilinear", align_corners=True)


def attention(x):
    tokens = functional.avg_pool2d(x, 8)
    keys = tokens.flatten(2)
    answers = (torch.softmax(keys.mT @ keys, dim=2) @ keys.mT).mT.reshape(tokens.shape)
    return functional.interpolate(answers, scale_factor=8)


@pytest.mark.parametrize("looks_everywhere", [squeeze, pyramid, corners, attention])
@pytest.mark.parametrize("shape", [(384, 384), (40, 24)])
def test_networks_that_look_everywhere_have_none(looks_everywhere, shape) -> None:
    samples = SAMPLES[:1, :, : shape[0], : shape[1]]
    found = measure_context(predictor(looks_everywhere), samples, stride_px=8, most_px=128)
    assert found.radius_px is None
    assert found.change > found.tolerance
    assert found.searched_px == 128


def test_a_radius_beyond_the_search_is_none() -> None:
    found = measure_context(shifted((0, 140, 1.0)), SAMPLES, stride_px=4, most_px=128)
    assert (found.radius_px, found.searched_px) == (None, 128)


def test_a_patch_has_to_be_large_enough_on_all_sides() -> None:
    """Both corners of the image may be cut away, but not that much of it that it gets small."""

    def predict(images: np.ndarray) -> np.ndarray:
        is_small = images.shape[2] < 100
        return np.stack([images[:, 0] + is_small, images[:, 1]], axis=1)

    found = measure_context(predict, SAMPLES, stride_px=2)
    assert found.radius_px is not None
    assert 32 <= found.radius_px <= 56  # and some pixels in the middle


@pytest.mark.parametrize("shape", [(1, 1), (5, 3), (64, 1000), (1000, 64)])
def test_samples_of_any_size_will_do(shape: tuple[int, int]) -> None:
    rng = np.random.default_rng(0)
    samples = [rng.standard_normal((2, *shape)).astype(np.float32)]
    if shape == (1, 1):  # one colour all over tells of the border alone, which is something
        samples[0][:] = 1
    assert measure_context(shifted((0, 6, 1.0)), samples, stride_px=1).radius_px == 6


def test_scores_that_are_no_numbers_are_refused() -> None:
    with pytest.raises(ExecutionError, match="Expected finite scores"):
        measure_context(lambda images: images * np.float32(np.nan), SAMPLES, stride_px=1)
    with pytest.raises(ValueError, match="without samples"):
        measure_context(shifted((0, 1, 1.0)), [], stride_px=1)


def test_a_local_and_a_global_network_of_the_catalogue(small_network) -> None:
    """Random, but sure of themselves: what is said of an architecture is found in its networks."""
    samples = texture(4, 128, seed=0, count=1)
    for name, is_local in (("linknet", True), ("pspnet", False)):
        network = small_network(name)
        with torch.inference_mode():
            scores = network(torch.from_numpy(samples))
        mean, std = scores.mean((0, 2, 3), keepdim=True), scores.std((0, 2, 3), keepdim=True)
        found = measure_context(
            predictor(lambda x, n=network, m=mean, s=std: (n(x) - m) / s * 3),
            samples,
            stride_px=network.stride_px,
            most_px=256,
        )
        assert (found.radius_px is not None) == is_local, name


@pytest.mark.parametrize("bands", [1, 5])
def test_texture_has_detail_at_every_scale(bands: int) -> None:
    samples = texture(bands, 256, seed=1)
    assert samples.shape == (3, bands, 256, 256)
    assert samples.dtype == np.float32
    assert np.allclose(samples.mean(axis=(2, 3)), 0, atol=1e-5)
    assert np.allclose(samples.std(axis=(2, 3)), 1, atol=1e-4)
    for block in (2, 8, 32):  # white noise would be down to 1 / block
        n = 256 // block
        means = samples.reshape(3, bands, n, block, n, block).mean(axis=(3, 5))
        assert (means.std(axis=(2, 3)) > 0.3).all()
    assert (np.abs(np.diff(samples)).std(axis=(2, 3)) > 0.05).all()
    assert np.array_equal(samples, texture(bands, 256, seed=1))
    assert not np.allclose(samples, texture(bands, 256, seed=2))
    assert np.isfinite(texture(bands, 1, seed=0)).all()
