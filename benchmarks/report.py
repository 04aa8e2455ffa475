"""Tables and verdicts in Markdown, and the results file, of which each mode owns a section."""

from __future__ import annotations

import re
from dataclasses import dataclass
from statistics import median
from typing import TYPE_CHECKING

from benchmarks.measure import machine

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

_HEAD = """# Results

Written by `python -m benchmarks.engine`; [README.md](README.md) says what is measured and how to repeat it.
Each section names the machine it was measured on and was written by one run.
"""
_TOO_SMALL = 0.001
"""Shares below this take more digits."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """Something that must be shown, and whether it was."""

    what: str
    required: float
    found: tuple[float, ...]
    """One value per round; their median decides."""
    at_most: bool
    """True: the value must not exceed `required`; False: it must reach it."""
    unit: str = ""

    @property
    def value(self) -> float:
        """The median."""
        return median(self.found)

    @property
    def met(self) -> bool:
        """Whether the median is on the right side."""
        return self.value <= self.required if self.at_most else self.value >= self.required

    @property
    def text(self) -> str:
        """Met or not, and by how much."""
        word = "met" if self.met else "NOT met"
        if self.required == 0:
            return word
        return f"{word}, by {abs(self.value / self.required - 1):.0%}"

    def row(self) -> list[str]:
        """Cells of a table."""
        sign = "at most" if self.at_most else "at least"
        spread = f" ({_number(min(self.found))} to {_number(max(self.found))})" if len(self.found) > 1 else ""
        return [
            self.what,
            f"{sign} {_number(self.required)}{self.unit}",
            f"{_number(self.value)}{self.unit}{spread}",
            self.text,
        ]


def verdict_table(verdicts: Sequence[Verdict]) -> str:
    """What must be shown, line by line."""
    head = ["must show", "required", "found: median (range of rounds)", "verdict"]
    return (
        table(head, [v.row() for v in verdicts]) if verdicts else "Nothing that must be shown was measured."
    )


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def share(value: float | None) -> str:
    """A share as a percentage with as many digits as it takes."""
    if value is None:
        return "-"
    if value == 0:
        return "0"
    return f"{value:.2%}" if value >= _TOO_SMALL else f"{value:.4%}"


def write_section(path: Path, mode: str, parts: Sequence[str]) -> str:
    """Replaces the section of `mode` in the results file, and returns it."""
    body = "\n\n".join([f"## {mode}", "\n".join(f"- {fact}" for fact in machine()), *parts])
    section = f"<!-- {mode} -->\n{body}\n<!-- /{mode} -->\n"
    text = path.read_text("utf-8") if path.exists() else _HEAD
    pattern = re.compile(rf"<!-- {re.escape(mode)} -->\n.*?<!-- /{re.escape(mode)} -->\n", re.DOTALL)
    text = pattern.sub(lambda _: section, text) if pattern.search(text) else f"{text.rstrip()}\n\n{section}"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return body


def _number(value: float) -> str:
    return f"{value:.4g}" if abs(value) < 1000 else f"{value:.0f}"  # noqa: PLR2004 - four digits, or all
