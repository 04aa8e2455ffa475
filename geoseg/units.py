"""Are a scene's values in the units a model was made for? Told from their mean and spread by band.

Places, seasons and clouds change the mean of a band and its spread, but not both of them in every band by one
factor: other units do. Measured on six aerial and four satellite scenes, each held against the others of its
sensor, whole and in parts of land, sea or cloud alone: the larger of the two ratios, in the band where it is
largest, was at least 0.49, and the smaller, in the band where it is smallest, at most 1.06. A mean was at
most 3.0 spreads away.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import sqrt
from statistics import median
from typing import TYPE_CHECKING

from geoseg.package import AffineStep, ClipStep, SigmoidStep

if TYPE_CHECKING:
    from collections.abc import Sequence

    from geoseg.package import Band, Step

_TIMES = 4.0
"""A factor of mean and spread, in this direction or the other, that every band must share."""
_TIMES_OF_FEW = 10.0
"""The same with fewer than three bands: clouds alone made one of them 4.4 times as bright and varied."""
_FEW = 3
_TIMES_OF_ONE = 100.0
"""A factor that is enough in one band: no cover of the ground is that much brighter than others."""
_SHIFT, _SHIFT_OF_ALL = 5.0, 2.0
"""Means so many spreads off, in one band, and in all of three or more to one side. Parts of the scenes, in
logarithms: 2.8 and 1.5."""
_ENDS = {"sigmoid": (0.1, 0.8), "clip": (0.001, 0.95)}
"""Of the range of a step: means below the one or above the other, in all bands, say that hardly anything is
told apart any more. What is clipped may well fill a small part of its range. The bands of Dynamic World on a
real scene and parts of it: 0.07 to 0.67; those of a tenth of the values: 0.05 at most; those of ten times the
values, in the whole scene: 0.89 at least."""
_LEAST, _MOST = 1e-3, 1e2
"""Root mean squares of what networks are given, where nothing else is known."""
_NOTHING = 1e-4
"""Of a spread: what float32 leaves of nothing."""
_TOLD = 3
"""Bands that are told of, at most."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Verdict:
    """What one band says."""

    text: str
    low: bool = False
    """Too small, if all bands say so."""
    high: bool = False
    """Too large, if all bands say so."""
    odd: bool = False
    """Neither place nor weather can explain it, whatever other bands say."""
    times: float | None = None
    """Values over those the model was made for."""


def unlike(bands: Sequence[Band], mean: Sequence[float], spread: Sequence[float]) -> str | None:
    """In what values are unlike those a model was made for, by band; None where they may well be like them.

    Args:
        bands: of the model's card.
        mean: of the normalised values, by band.
        spread: their standard deviation.
    """
    looks = [_look(band, m, s, few=len(bands) < _FEW) for band, m, s in zip(bands, mean, spread, strict=True)]
    votes = [look for look in looks if look is not None]
    if votes and (all(v.low for v in votes) or all(v.high for v in votes)):
        return f"{_listed(votes)}{_factor(votes)}"
    odd = [v for v in votes if v.odd]
    return _listed(odd) if odd else None


def _listed(verdicts: Sequence[_Verdict]) -> str:
    more = len(verdicts) - _TOLD
    return "; ".join([*(v.text for v in verdicts[:_TOLD]), *([f"{more} more bands"] if more > 0 else [])])


def _factor(verdicts: Sequence[_Verdict]) -> str:
    times = [v.times for v in verdicts if v.times]
    if len(times) < len(verdicts):
        return ""
    factor = median(times)
    size, word = (factor, "large") if factor > 1 else (1 / factor, "small")
    return f"; in all bands about {float(f'{size:.1g}'):,g} times too {word}"


def _look(band: Band, mean: float, spread: float, *, few: bool) -> _Verdict | None:
    """What a band says; None where its card says nothing to hold it against."""
    curved = [step for step in band.steps if not isinstance(step, AffineStep)]
    if any(_is_flat(step) for step in band.steps):
        return None
    if _is_measured(band):
        return (_moments if curved else _level)(band, mean, spread, few=few)
    if curved and isinstance(curved[-1], SigmoidStep | ClipStep):
        return _within(band, mean, curved[-1])
    if not band.steps and (band.mean, band.std) == (0.0, 1.0):
        return None  # the network takes values as they are
    size = sqrt(mean**2 + spread**2)
    text = f"{band.name}: normalised to about {size:.2g}"
    return _Verdict(text=text, low=size < _LEAST, high=size > _MOST)


def _is_flat(step: Step) -> bool:
    """True for a step that makes one value of all: none can be told from what it leaves."""
    return (isinstance(step, AffineStep) and step.gain == 0) or (
        isinstance(step, ClipStep) and step.min >= step.max
    )


def _is_measured(band: Band) -> bool:
    """True where mean and std are those of scenes, not bounds that values are brought between."""
    return band.mean not in (0.0, band.std)


def _level(band: Band, mean: float, spread: float, *, few: bool) -> _Verdict:
    """Of a band whose mean and spread are known before anything but gains and shifts."""
    gain, shift = _affine(band)
    learnt, learnt_spread = (band.mean - shift) / gain, band.std / abs(gain)
    found, found_spread = learnt + mean * learnt_spread * (1 if gain > 0 else -1), spread * learnt_spread
    found = found if abs(found) > _NOTHING * learnt_spread else 0.0
    ratios = [spread]
    if abs(learnt) > learnt_spread / 2:  # else the mean is about nothing, and so is its ratio
        ratios.append(abs(found / learnt))
    least, most, times = min(ratios), max(ratios), _TIMES_OF_FEW if few else _TIMES
    return _Verdict(
        text=f"{band.name}: mean {found:.4g}, spread {found_spread:.3g}; the model learnt from {learnt:.4g} "
        f"and {learnt_spread:.3g}",
        low=most < 1 / times,
        high=least > times,
        odd=most < 1 / _TIMES_OF_ONE or least > _TIMES_OF_ONE or abs(mean) > _SHIFT * max(1.0, spread),
        times=sqrt(least * most) or None,
    )


def _moments(band: Band, mean: float, spread: float, *, few: bool) -> _Verdict:
    """Of a band whose mean and spread are known after its steps, which bend values."""
    off, far = mean / max(1.0, spread), _SHIFT if few else _SHIFT_OF_ALL
    return _Verdict(
        text=f"{band.name}: after its steps mean {band.mean + mean * band.std:.4g}, spread "
        f"{spread * band.std:.3g}; the model learnt from {band.mean:.4g} and {band.std:.3g}",
        low=off < -far,
        high=off > far,
        odd=abs(off) > _SHIFT,
    )


def _within(band: Band, mean: float, last: SigmoidStep | ClipStep) -> _Verdict:
    """Of a band whose steps end in a range; those after the last that bends values are undone."""
    after = band.steps[len(band.steps) - 1 - band.steps[::-1].index(last) + 1 :]
    value = mean * band.std + band.mean
    for step in reversed([step for step in after if isinstance(step, AffineStep)]):
        value = (value - step.offset) / step.gain
    start, end = (last.min, last.max) if isinstance(last, ClipStep) else (0.0, 1.0)
    share = (value - start) / (end - start)
    least, most = _ENDS[last.step]
    text = f"{band.name}: its steps bring values to a mean of {value:.2g} in {start:g} to {end:g}"
    return _Verdict(text=text, low=share < least, high=share > most)


def _affine(band: Band) -> tuple[float, float]:
    """Gain and shift of all steps together, none of which does anything else."""
    gain, shift = 1.0, 0.0
    for step in band.steps:
        if isinstance(step, AffineStep):
            gain, shift = gain * step.gain, shift * step.gain + step.offset
    return gain, shift
