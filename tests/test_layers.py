"""The house rules as a test: who may import whom, and what cheap commands must not load."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "geoseg"

PURE = (
    "files value tiling planning stitch regions labelling adjacency dissolve sieve metrics seams config "
    "onnxfile package matching manifest cache scratch apart units"
)
LAYERS = {
    0: {"errors", "legend", "windows"},
    1: set(PURE.split()),
    2: {"raster", "vector", "models"},
    3: {
        "facts",
        "inference",
        "survey",
        "choice",
        "data",
        "execute",
        "tasks",
        "outlining",
        "assemble",
        "products",
    },
    4: {
        "train",
        "accuracy",
        "evaluation",
        "jobs",
        "prediction",
        "findings",
        "trial",
        "calibrate",
        "polygonize",
        "api",
        "report",
    },
    5: {"xr", "cli", "demo", "__init__", "__main__"},
}
LAYER = {module: layer for layer, modules in LAYERS.items() for module in modules}

HEAVY = {
    0: {"numpy", "affine"},
    1: {"numpy", "affine", "pydantic", "odc", "ruamel", "scipy", "numba"},
}
FORBIDDEN = {
    "raster": {"torch", "torchvision", "segmentation_models_pytorch", "dask", "distributed"},
    "vector": {"torch", "torchvision", "segmentation_models_pytorch", "dask", "distributed"},
    "models": {"rasterio", "geopandas", "shapely", "dask", "distributed"},
    "inference": {"torch", "dask", "distributed", "rasterio"},
    "tasks": {"torch"},
    "jobs": {"torch"},
}
KNOW_DASK = {"execute", "xr"}


def modules() -> list[tuple[str, Path]]:
    """(top-level name inside geoseg, file) of every module."""
    found = []
    for path in sorted(PACKAGE.rglob("*.py")):
        relative = path.relative_to(PACKAGE)
        found.append((relative.parts[0].removesuffix(".py"), path))
    return found


def imports(path: Path) -> set[str]:
    """Dotted names of everything the file imports, also inside functions."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def third_party(names: set[str]) -> set[str]:
    roots = {n.split(".")[0] for n in names}
    return roots - set(sys.stdlib_module_names) - {"geoseg", "__future__"}


@pytest.mark.parametrize(("module", "path"), modules(), ids=lambda v: str(v).rpartition("geoseg/")[2])
def test_imports_go_one_way(module: str, path: Path) -> None:
    assert module in LAYER, f"{module} is in no layer: add it to LAYERS and to the design"
    names = imports(path)
    for name in names:
        parts = name.split(".")
        if parts[0] != "geoseg" or len(parts) < 2:
            continue
        other = parts[1] if parts[1] in LAYER else "__init__"
        assert LAYER[other] <= LAYER[module], f"{module} (layer {LAYER[module]}) imports {name}"
    roots = third_party(names)
    if LAYER[module] in HEAVY:
        assert roots <= HEAVY[LAYER[module]], f"{module} may not import {roots - HEAVY[LAYER[module]]}"
    assert not roots & FORBIDDEN.get(module, set())
    assert module in KNOW_DASK or not roots & {"dask", "distributed"}
    assert "numba" not in roots or roots <= {"numba", "numpy", "affine"}, f"{path} compiles, and more"


def test_the_forbidden_lists_name_modules_that_exist() -> None:
    assert {m for m, _ in modules()} == set(LAYER)


@pytest.mark.parametrize(
    "arguments", ["", "--help", "models", "plan SCENE -m MODEL --no-run", "info SCENE -m MODEL"]
)
def test_cheap_commands_load_neither_torch_nor_dask(arguments: str, make_scene, package) -> None:
    """Of Dask, odc-geo loads the core package (0.1 s); arrays and the cluster are what costs seconds."""
    arguments = arguments.replace("SCENE", str(make_scene())).replace("MODEL", str(package))
    run = f"from geoseg.cli.main import main; main({arguments.split()!r}, standalone_mode=False)"
    script = (
        f"import sys, geoseg\n{run if arguments else ''}\n"
        "print(sorted({'torch', 'dask.array', 'distributed', 'numba'} & set(sys.modules)))\n"
    )
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert result.stdout.splitlines()[-1] == "[]"


def test_numba_waits_until_something_is_traced() -> None:
    script = (
        "import sys, geoseg.jobs, geoseg.polygonize, geoseg.outlining\nassert 'numba' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True)
