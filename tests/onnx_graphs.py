"""Small ONNX graphs made by hand, and cards for them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

OPSET = 17


def save(nodes, weights, path, *, input_shape, output_shape, external=None, outputs=1, opset=OPSET):
    """A graph from x to y, with ONNX's own checks."""
    ends = [helper.make_tensor_value_info("x", TensorProto.FLOAT, input_shape)]
    answers = [helper.make_tensor_value_info("y", TensorProto.FLOAT, output_shape)]
    if outputs > 1:
        nodes = [*nodes, helper.make_node("Identity", ["y"], ["z"])]
        answers.append(helper.make_tensor_value_info("z", TensorProto.FLOAT, output_shape))
    constants = [numpy_helper.from_array(np.asarray(value), name) for name, value in weights.items()]
    graph = helper.make_graph(nodes, "graph", ends, answers, constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    onnx.checker.check_model(model)
    if external is not None:
        onnx.external_data_helper.convert_model_to_external_data(model, location=external, size_threshold=100)
    onnx.save(model, path)
    return Path(path)


def halving(path, *, bands=2, classes=3, last=(), shape=None, gain=2.0, **more):
    """A network of stride 2: means of 2 x 2 pixels, a convolution, twice the size again, plus a convolution.

    A pixel sees three pixels beyond its own 2 x 2 at most. `last` are operators that end it.
    """
    rng = np.random.default_rng(0)
    weights = {
        "w": rng.normal(0, gain, (classes, bands, 3, 3)).astype(np.float32),
        "v": rng.normal(0, gain / 3, (classes, bands, 3, 3)).astype(np.float32),
        "b": rng.normal(0, 1, classes).astype(np.float32),
        "factors": np.array([1, 1, 2, 2], np.float32),
    }
    nodes = [
        helper.make_node("AveragePool", ["x"], ["half"], kernel_shape=[2, 2], strides=[2, 2]),
        helper.make_node("Conv", ["half", "w", "b"], ["coarse"], pads=[1, 1, 1, 1]),
        helper.make_node("Resize", ["coarse", "", "factors"], ["wide"], mode="nearest"),
        helper.make_node("Conv", ["x", "v"], ["fine"], pads=[1, 1, 1, 1]),
        helper.make_node("Add", ["wide", "fine"], ["sum"]),
    ]
    names = ["sum", *(f"end{i}" for i in range(len(last)))]
    for (operator, options), before, after in zip(last, names, [*names[1:], "y"], strict=False):
        nodes.append(helper.make_node(operator, [before], [after], **options))
    nodes[-1].output[0] = "y"
    channels = more.pop("declared", bands)
    open_shape = ["n", channels, "h", "w"]
    return save(
        nodes, weights, path, input_shape=shape or open_shape, output_shape=["n", classes, "p", "q"], **more
    )


def card_fields(*, bands=2, classes=3, **more):
    """A card for `halving`, as one writes it by hand."""
    return {
        "bands": [{"name": f"B{i}", "mean": 0, "std": 1} for i in range(bands)],
        "dtype": "uint8",
        "legend": {
            "classes": [{"id": i + 1, "name": f"class {i}", "color": "#112233"} for i in range(classes)]
        },
        "patch_px": 64,
        "overlap_px": 16,
        "stride_px": 2,
        "provenance": {"from": "a test"},
        **more,
    }


def write_card(path, **more):
    path.write_text(json.dumps(card_fields(**more)))
    return path
