"""Functions in processes of their own: results and errors come back, deaths are told."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from geoseg.apart import run_apart
from geoseg.errors import ExecutionError, SceneError
from geoseg.raster.scene import open_scene
from geoseg.windows import Window


def test_the_result_comes_back_from_another_process(make_scene) -> None:
    assert run_apart(os.getpid) != os.getpid()
    path = make_scene((30, 20))
    assert run_apart(open_scene, path, nodata=3) == open_scene(path, nodata=3)
    assert run_apart(Window(0, 0, 9, 9).intersect, Window(3, 4, 50, 50)) == Window(3, 4, 6, 5)


def test_our_errors_come_back_as_they_were(tmp_path) -> None:
    with pytest.raises(SceneError, match="no such file"):
        run_apart(open_scene, tmp_path / "none.tif")


def test_other_errors_and_deaths_are_told() -> None:
    with pytest.raises(ExecutionError, match=r"sleep.*TypeError"):
        run_apart(time.sleep, "long")
    with pytest.raises(ExecutionError, match="exit code -6"):
        run_apart(os.abort)


def test_a_script_without_a_guard_can_use_it(tmp_path) -> None:
    """As nobody guards `geoseg.predict(...)` in a script of five lines."""
    script = Path(tmp_path / "script.py")
    script.write_text("import os\nfrom geoseg.apart import run_apart\nprint(run_apart(os.getpid) > 0)\n")
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, check=True)
    assert done.stdout == "True\n"
