"""The command: `python -m benchmarks.engine [MODE] [options]`; `--help` says more, README.md most."""

from __future__ import annotations

import argparse
import os
from importlib import import_module
from pathlib import Path

from benchmarks.measure import cores
from benchmarks.setting import Setting, pythons

MODES = {
    "run": "benchmarks.whole_run",
    "seam": "benchmarks.seam",
    "memory": "benchmarks.memory",
    "dask": "benchmarks.cluster",
    "polygons": "benchmarks.polygons",
    "gpu": "benchmarks.gpu",
}
"""Each module has `run(setting) -> str`."""
ON_CPU = ("run", "seam", "memory", "dask", "polygons")
RESULTS = Path(__file__).with_name("RESULTS.md")


def main(arguments: list[str] | None = None) -> int:
    """Runs the modes that are asked for; 0 when all of them came to an end."""
    given = _parser().parse_args(arguments)
    work = given.work.resolve()
    # Exports and measurements of benchmark networks are nobody's business but ours.
    os.environ["GEOSEG_CACHE"] = str(work / "cache")
    for mode in ON_CPU if given.mode == "all" else (given.mode,):
        setting = Setting(
            work=work,
            results=given.results.resolve(),
            rounds=given.rounds,
            cores=given.cores,
            networks=tuple(given.networks or DEFAULTS[mode][0]),
            sizes=tuple(given.sizes or DEFAULTS[mode][1]),
            runtimes=tuple(given.runtimes or DEFAULTS[mode][2]),
            contenders=tuple(given.contenders) if given.contenders else None,
            device="cuda" if mode == "gpu" else "cpu",
            pythons=pythons(given.peers),
            timeout_s=given.timeout,
            own_maps=tuple(path.resolve() for path in given.maps),
            in_process=given.in_process,
        )
        print(import_module(MODES[mode]).run(setting), flush=True)
    return 0


DEFAULTS = {
    "run": (["resnet18", "light"], [4096], ["torch", "openvino"]),
    "seam": (["resnet18", "light"], [2048], ["torch"]),
    "memory": (["light"], [2048, 8192, 16384, 32768], ["openvino"]),
    "dask": (["light"], [8192], ["openvino"]),
    "polygons": ([], [4096, 8192], []),
    "gpu": (["resnet34"], [16384], ["torch-bf16"]),
}
"""Networks, sizes and runtimes of each mode where none are named."""


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.engine", description=__doc__)
    parser.add_argument(
        "mode", nargs="?", default="run", choices=[*MODES, "all"], help="all: those for a CPU"
    )
    parser.add_argument(
        "--work", type=Path, default=Path("outputs/benchmarks"), help="scenes, networks, maps"
    )
    parser.add_argument("--results", type=Path, default=RESULTS, help="Markdown file to write")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--cores", type=int, default=cores(), help="threads each contender may keep busy")
    parser.add_argument("--sizes", type=int, nargs="+", metavar="PX", help="sides of the scenes")
    parser.add_argument("--networks", nargs="+", metavar="NAME", help="see benchmarks/specs.py")
    parser.add_argument("--runtimes", nargs="+", metavar="NAME", help="torch, openvino, onnxruntime")
    parser.add_argument("--contenders", nargs="+", metavar="NAME", help="only these (modes run, polygons)")
    parser.add_argument(
        "--maps",
        type=Path,
        nargs="+",
        default=[],
        metavar="FILE",
        help="class maps of your own (mode polygons)",
    )
    parser.add_argument(
        "--peers",
        nargs="+",
        default=[],
        metavar="NAME=PYTHON",
        help="interpreters of other tools; also $PEERS",
    )
    parser.add_argument(
        "--timeout", type=float, default=3600.0, metavar="SECONDS", help="for one measurement"
    )
    parser.add_argument("--in-process", action="store_true", help="a quick trial; costs mean nothing then")
    return parser


if __name__ == "__main__":
    raise SystemExit(main())
