"""Are values in the units a model was made for? Real scenes, in these and others; cards of all kinds."""

from __future__ import annotations

import json
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import rasterio
from PIL import Image

from geoseg.inference import normalise
from geoseg.package import AffineStep, Band, ClipStep, LogStep, SigmoidStep
from geoseg.units import unlike

DYNAMIC_WORLD = Path(__file__).parent.parent / "configs" / "dynamic-world.json"


def judge(bands, values, *, scale=1.0) -> str | None:
    """What is said of values (bands, pixels)."""
    normal = normalise(values[:, None], np.ones((1, values.shape[1]), bool), bands, scale=scale)
    return unlike(bands, normal.mean(axis=(1, 2), dtype=float), normal.std(axis=(1, 2), dtype=float))


def learn(values, *, steps=()) -> list[Band]:
    """Bands normalised by the moments of values (bands, pixels), after steps: log(x + 1) or none."""
    seen = np.log(values.astype(float) + 1) if steps else values.astype(float)
    return [
        Band(name=f"b{i}", mean=mean, std=std, steps=steps)
        for i, (mean, std) in enumerate(zip(seen.mean(axis=1), seen.std(axis=1), strict=True))
    ]


def parts(values: np.ndarray, count: int) -> list[np.ndarray]:
    """(bands, pixels) of the whole and of count x count pieces of it; what is 0 in a band is left out."""
    pieces = [
        p for rows in np.array_split(values, count, axis=1) for p in np.array_split(rows, count, axis=2)
    ]
    flat = [p.reshape(len(p), -1) for p in (values, *pieces)]
    kept = [f[:, (f != 0).all(axis=0)] for f in flat]
    return [f for f in kept if f.shape[1] > 200]


@pytest.fixture(scope="module")
def aberystwyth(real_data) -> np.ndarray:
    with rasterio.open(real_data / "s2-aberystwyth" / "mosaic_10band.tif") as dataset:
        return dataset.read()[:, ::3, ::3]


@pytest.fixture(scope="module")
def pairs(real_data, aberystwyth) -> dict[str, tuple[np.ndarray, list[np.ndarray]]]:
    """What a model has learnt from, and what it is then given: a whole scene first, then parts of it."""
    coast = real_data / "s2-nc-coast"
    found = {"aberystwyth": (parts(aberystwyth, 1)[0], parts(aberystwyth, 4))}
    bands = sorted((coast / "sentinel-2").glob("*.tif*"))
    sentinel = np.stack([rasterio.open(path).read(1)[::6, ::6] for path in bands])
    found["coast"] = parts(sentinel, 1)[0], parts(sentinel, 4)
    clear, cloudy = (rasterio.open(path).read()[:7] for path in sorted(coast.glob("*.gtif")))
    found["clear to cloudy"] = parts(clear, 1)[0], parts(cloudy, 2)
    found["cloudy to clear"] = parts(cloudy, 1)[0], parts(clear, 2)
    tiles = {
        folder.name: [
            np.asarray(Image.open(path).convert("RGB"))[::8, ::8].reshape(-1, 3).T
            for path in sorted(folder.glob("image*"))
        ]
        for folder in sorted((real_data / "dubai" / "parts").iterdir())
    }
    for name, mine in tiles.items():
        others = np.concatenate(
            [v for other, images in tiles.items() if other != name for v in images], axis=1
        )
        found[name] = others, [np.concatenate(mine, axis=1), *mine]
    return found


@pytest.mark.data
@pytest.mark.parametrize("steps", [(), (AffineStep(gain=1, offset=1), LogStep())], ids=["plain", "logarithm"])
def test_no_real_scene_nor_a_part_of_it_alarms_anybody(pairs, steps) -> None:
    """With all bands, with any three, with any one: sea without land, and clouds without either, included."""
    for name, (learnt, scenes) in pairs.items():
        bands = learn(learnt, steps=steps)
        sets = [slice(None), *(slice(i, i + n) for n in (1, 3) for i in range(len(bands) - n + 1))]
        for some, values in product(sets, scenes):
            assert judge(bands[some], values[some]) is None, (name, some)


@pytest.mark.data
@pytest.mark.parametrize("scale", [10, 0.1, 1e-4])
def test_real_scenes_in_other_units_are_noticed(pairs, scale) -> None:
    for name, (learnt, scenes) in pairs.items():
        assert judge(learn(learnt), scenes[0], scale=scale) is not None, name


@pytest.mark.data
def test_dynamic_world_notices_other_units(aberystwyth) -> None:
    """Its bands end in a sigmoid; the scene holds reflectance times 1000, the model wants it times 10,000."""
    bands = [Band(**band) for band in json.loads(DYNAMIC_WORLD.read_text())["bands"]]
    order = ("B2", "B3", "B4", "B5", "B6", "B7", "B8", "B8A", "B11", "B12")
    values = aberystwyth[[order.index(band.name) for band in bands]]
    for piece in parts(values, 4):
        assert judge(bands, piece, scale=10) is None
        assert "B2: its steps bring values to a mean of 0.0" in judge(bands, piece, scale=1)
    whole = parts(values, 1)[0]
    for scale in (1e-3, 1e-2, 0.1, 100, 1000, 1e5):
        assert judge(bands, whole, scale=scale) is not None


def normal(bands: int, *, mean: float, std: float) -> np.ndarray:
    """Of exactly these moments."""
    found = np.random.default_rng(0).normal(size=(bands, 4000))
    found -= found.mean(axis=1, keepdims=True)
    return mean + std * found / found.std(axis=1, keepdims=True)


def test_the_message_says_what_was_found_what_was_learnt_and_the_factor() -> None:
    bands = [Band(name=name, mean=1000, std=300) for name in "abcde"]
    assert judge(bands, normal(5, mean=1000, std=300)) is None
    said = judge(bands, normal(5, mean=100, std=30))
    assert said.startswith("a: mean 100, spread 30; the model learnt from 1000 and 300; b: ")
    assert said.endswith("; 2 more bands; in all bands about 10 times too small")


def test_gains_and_shifts_before_known_moments_are_undone() -> None:
    steps = (AffineStep(gain=0.5), AffineStep(gain=-0.02, offset=3))
    bands = [Band(name=name, mean=-7, std=3, steps=steps) for name in "abc"]  # 1000 and 300, that is
    assert judge(bands, normal(3, mean=1000, std=300)) is None
    said = judge(bands, normal(3, mean=10_000, std=3000))
    assert "a: mean 1e+04, spread 3e+03; the model learnt from 1000 and 300" in said
    assert "about 10 times too large" in said


def test_one_band_far_off_is_enough() -> None:
    """A band in degrees Celsius among those in Kelvin, and one that is empty."""
    bands = [Band(name=name, mean=290, std=10) for name in "abcd"]
    values = normal(4, mean=290, std=10)
    values[2] -= 273
    assert judge(bands, values).startswith("c: mean 17")
    bands = [Band(name=name, mean=1000, std=300) for name in "abcd"]
    values = normal(4, mean=1000, std=300)
    values[1] = 0
    assert judge(bands, values) == "b: mean 0, spread 0; the model learnt from 1000 and 300"


@pytest.mark.parametrize(
    "band",
    [
        Band(name="raw", mean=0, std=1),
        Band(name="to 0..1", mean=0, std=10_000),
        Band(name="to -1..1", mean=5000, std=5000),
        Band(name="steps to 0..1", steps=(AffineStep(gain=1e-4),)),
        Band(name="clipped", steps=(AffineStep(gain=1e-4), ClipStep(min=0, max=1))),
        Band(name="no value", steps=(AffineStep(gain=0),)),
        Band(name="nor here", steps=(ClipStep(min=2, max=2),)),
    ],
    ids=lambda band: band.name,
)
def test_bounds_are_not_taken_for_moments(band) -> None:
    """Dark forest, in the visible: a small part of the range that values are brought from."""
    assert judge([band] * 3, normal(3, mean=300, std=50)) is None


def test_without_moments_only_what_no_network_is_given_is_noticed() -> None:
    scaled, clipped = (
        [Band(name="a", steps=(AffineStep(gain=1e-4), *more))] * 3 for more in ((), (ClipStep(min=0, max=1),))
    )
    reflectance = normal(3, mean=0.2, std=0.05)
    assert "normalised to about 2.1e-05" in judge(scaled, reflectance)
    assert "mean of 2e-05 in 0 to 1" in judge(clipped, reflectance)
    assert judge(scaled, reflectance, scale=1e8) is not None
    assert judge(clipped, reflectance, scale=1e8) is not None


def test_what_comes_after_a_range_is_undone() -> None:
    steps = (AffineStep(gain=1e-3), SigmoidStep(), AffineStep(gain=2, offset=-1))
    bands = [Band(name="a", steps=steps)] * 3
    values = normal(3, mean=200, std=300)
    assert judge(bands, values) is None
    assert "a mean of 1 in 0 to 1" in judge(bands, values + 1e5)


def test_moments_after_steps_that_bend_values() -> None:
    bands = [Band(name="a", mean=5, std=0.5, steps=(LogStep(),))] * 3
    values = np.exp(normal(3, mean=5, std=0.5))
    assert judge(bands, values) is None
    said = judge(bands, values, scale=0.1)
    assert said.startswith("a: after its steps mean 2.697, spread 0.5; the model learnt from 5 and 0.5; a: ")
    assert judge(bands[:1], values[:1], scale=0.1) is None  # one band may be that dark
    assert judge(bands[:1], values[:1], scale=0.01) is not None
