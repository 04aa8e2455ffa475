"""The benchmark of training runs and says what it found; speed is not tested."""

from __future__ import annotations

from pathlib import Path

ROOT = Path(__file__).parent.parent


def test_training_and_the_bare_network_take_turns(monkeypatch, capsys) -> None:
    monkeypatch.syspath_prepend(str(ROOT))
    from benchmarks.training import Block, Turns, main, row

    options = ["--patch", "32", "--batch", "2", "--block", "2", "--rounds", "2", "--threads", "1"]
    assert main(["--networks", "tiny", *options]) == 0
    cells = capsys.readouterr().out.splitlines()[-1].strip("| ").split(" | ")
    assert cells[0] == "tiny"
    assert float(cells[1]) > 0
    assert cells[4] in {"met", "NOT met"}

    turns = Turns(bare=int, block=2, rounds=3)
    turns.trained = [Block(wall_s=w, cpu_s=2.0) for w in (1.0, 2.0, 4.0)]
    turns.bared = [Block(wall_s=1.0, cpu_s=1.9) for _ in range(3)]
    expected = ["x", "8.00", "0.500 (0.250 to 1.000)", "0.950 (0.950 to 0.950)", "NOT met"]
    assert row("x", turns, 16) == "| " + " | ".join(expected) + " |"
    turns.bared = [Block(wall_s=w, cpu_s=1.9) for w in (0.9, 1.8, 3.5)]
    assert row("x", turns, 16).endswith("| met |")
