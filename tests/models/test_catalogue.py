from __future__ import annotations

import inspect
import subprocess
import sys
from importlib import import_module

import pytest
import segmentation_models_pytorch as smp

from geoseg.cli import plan, predict
from geoseg.errors import UsageError
from geoseg.models.catalogue import RUNTIMES, architectures, describe
from geoseg.models.registry import encoders


def test_listing_needs_no_torch():
    program = (
        "import sys; from geoseg.models.catalogue import RUNTIMES, architectures;"
        "assert all(a.summary and a.paper for a in architectures().values());"
        "assert all(r.summary and r.installed in {True, False} for r in RUNTIMES.values());"
        "heavy = {'torch', 'torchvision', 'timm', 'segmentation_models_pytorch', 'dask', 'onnxruntime',"
        "'openvino', 'numpy'} & set(sys.modules);"
        "sys.exit(f'imported {heavy}' if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_covers_what_smp_has_and_the_classics():
    expected = {"fcn32s", "fcn16s", "fcn8s", "segnet", *smp.MODEL_ARCHITECTURES_MAPPING}
    assert set(architectures()) == expected
    assert len(architectures()) == 16


@pytest.mark.parametrize("info", architectures().values(), ids=lambda info: info.name)
def test_entries_point_to_what_they_name(info):
    module, _, name = info.constructor.partition(":")
    constructor = getattr(import_module(module), name)
    assert {"encoder_name", "encoder_weights", "in_channels", "classes"} <= set(
        inspect.signature(constructor).parameters
    )
    smp_class = smp.MODEL_ARCHITECTURES_MAPPING.get(info.name)
    assert smp_class in {None, constructor}
    assert info.default_encoder in encoders(info.name)


def test_table_cannot_be_changed():
    with pytest.raises(TypeError):
        architectures()["mine"] = describe("unet")


def test_unknown_name_lists_all_and_the_closest():
    with pytest.raises(UsageError, match=r"no architecture 'u-net'.*Did you mean 'unet'\?.*fcn32s.*dpt"):
        describe("u-net")


def test_runtimes_that_may_be_asked_for_are_those_there_are():
    for command in (plan.command, predict.command):
        [option] = [o for o in command.params if o.name == "runtime"]
        assert set(option.type.choices) == {"auto", *RUNTIMES}
