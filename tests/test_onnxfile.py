from __future__ import annotations

import hashlib
from contextlib import suppress

import numpy as np
import onnx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper
from onnx_graphs import halving

from geoseg.errors import PackageError
from geoseg.onnxfile import graph_sha256, read_metadata, require_self_contained, write_metadata
from geoseg.package import read_card

FEW = settings(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture
def graph(tmp_path):
    return halving(tmp_path / "model.onnx")


def without_metadata(path) -> bytes:
    """What decides the answers: the model as onnx writes it, emptied of what it says about itself."""
    model = onnx.load(path)
    del model.metadata_props[:]
    return model.SerializeToString()


def with_metadata(path, pairs):
    model = onnx.load(path)
    helper.set_model_props(model, pairs)
    onnx.save(model, path)
    return path


class TestMetadata:
    def test_none(self, graph):
        assert read_metadata(graph) == {}

    @FEW
    @given(st.dictionaries(st.text(max_size=9), st.text(max_size=400), max_size=4))
    def test_is_what_onnx_wrote(self, graph, pairs):
        assert read_metadata(with_metadata(graph, pairs)) == pairs

    @FEW
    @given(
        st.dictionaries(st.sampled_from("abc"), st.text(max_size=200), max_size=3),
        st.sampled_from("abcd"),
        st.text(max_size=20_000),
    )
    def test_written_is_what_onnx_reads_and_nothing_else_changes(self, graph, pairs, key, value):
        with_metadata(graph, pairs)
        copy = graph.with_name("copy.onnx")
        write_metadata(graph, copy, key, value)
        model = onnx.load(copy)
        assert [(e.key, e.value) for e in model.metadata_props].count((key, value)) == 1
        assert {e.key: e.value for e in model.metadata_props} == pairs | {key: value}
        assert len(model.metadata_props) == len(pairs | {key: value})
        before = onnx.load(graph)
        for each in (before, model):
            del each.metadata_props[:]
        assert before == model
        assert graph_sha256(copy) == graph_sha256(graph)

    def test_longer_than_any_card_is_refused(self, graph):
        with_metadata(graph, {"a": "x" * (5 << 20)})
        with pytest.raises(PackageError, match=r"not a whole ONNX file.*metadata of \d+ bytes"):
            read_metadata(graph)

    def test_a_file_without_a_card_says_how_to_write_one(self, graph):
        with pytest.raises(PackageError, match=r"Expected metadata 'geoseg'.*geoseg wrap FILE CARD"):
            read_card(graph)


class TestHash:
    def test_is_that_of_the_graph_and_not_of_the_metadata(self, graph):
        expected = hashlib.sha256(without_metadata(graph)).hexdigest()
        assert graph_sha256(graph) == expected
        assert graph_sha256(with_metadata(graph, {"a": "b"})) == expected

    def test_changes_with_any_weight(self, graph):
        before = graph_sha256(graph)
        model = onnx.load(graph)
        raw = bytearray(model.graph.initializer[0].raw_data)
        raw[-1] ^= 1
        model.graph.initializer[0].raw_data = bytes(raw)
        onnx.save(model, graph)
        assert graph_sha256(graph) != before

    def test_graphs_larger_than_a_chunk(self, tmp_path):
        path = tmp_path / "large.onnx"
        big = numpy_helper.from_array(np.arange(700_000, dtype=np.float32), "big")
        onnx.save(helper.make_model(helper.make_graph([], "large", [], [], [big])), path)
        expected = hashlib.sha256(without_metadata(path)).hexdigest()
        assert graph_sha256(path) == expected


def everything(path):
    """All that is ever asked of a file."""
    require_self_contained(path)
    return read_metadata(path), graph_sha256(path)


class TestBroken:
    def test_cut_anywhere(self, graph):
        whole = with_metadata(graph, {"key": "value" * 30}).read_bytes()
        truth = everything(graph)
        told = 0
        for length in range(0, len(whole), 3):
            graph.write_bytes(whole[:length])
            try:
                found = everything(graph)
            except PackageError:
                told += 1
            else:  # cut between two fields: what is left is a whole file, as onnx, too, believes
                assert found[1] == truth[1]
                assert len(onnx.load(graph).metadata_props) == len(found[0])
        assert told > 0.9 * len(whole) / 3

    @FEW
    @given(st.binary(max_size=300))
    def test_garbage_is_no_model(self, graph, data):
        graph.write_bytes(data)
        with suppress(PackageError):
            read_metadata(graph)
        with pytest.raises(PackageError, match="not a whole ONNX file"):
            graph_sha256(graph)

    @FEW
    @given(st.integers(0, 5000), st.integers(0, 255))
    def test_a_wrong_byte_is_an_error_or_another_hash(self, graph, place, byte):
        data = bytearray(halving(graph).read_bytes())
        hash_before = graph_sha256(graph)
        place %= len(data)
        changed = data[place] != byte
        data[place] = byte
        graph.write_bytes(data)
        try:
            found = everything(graph)[1]
        except PackageError:
            return
        assert (found != hash_before) == changed

    def test_messages_nested_without_end(self, graph):
        inner = b""
        for _ in range(200):  # graph > node > attribute > graph > ...
            for number in (6, 5, 1):
                inner = bytes([number << 3 | 2]) + onnx_varint(len(inner)) + inner
        graph.write_bytes(bytes([7 << 3 | 2]) + onnx_varint(len(inner)) + inner)
        with pytest.raises(PackageError, match="64 deep"):
            require_self_contained(graph)


def onnx_varint(value):
    out = b""
    while value >= 128:
        out, value = out + bytes([value & 127 | 128]), value >> 7
    return out + bytes([value])


def external_tensor():
    tensor = numpy_helper.from_array(np.zeros(4, np.float32), "secret")
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="../../etc/passwd")
    return tensor


def constant(tensor, name="c"):
    return helper.make_node("Constant", [], [name], value=tensor)


def graph_with(nodes=(), tensors=()):
    return helper.make_graph(list(nodes), "g", [], [], list(tensors))


def branch(tensor):
    inside = graph_with([constant(tensor)])
    return helper.make_node("If", ["c"], ["y"], then_branch=inside, else_branch=graph_with())


def sparse(tensor):
    indices = numpy_helper.from_array(np.arange(4), "indices")
    return helper.make_sparse_tensor(tensor, indices, [8])


def function(tensor):
    opset = [helper.make_opsetid("", 17)]
    made = helper.make_model(graph_with(), functions=[])
    made.functions.append(helper.make_function("own", "f", [], ["c"], [constant(tensor)], opset))
    return made


def with_sparse_initializer(tensor):
    graph = graph_with()
    graph.sparse_initializer.append(sparse(tensor))
    return helper.make_model(graph)


PLACES = {
    "initializer": lambda t: helper.make_model(graph_with(tensors=[t])),
    "constant": lambda t: helper.make_model(graph_with([constant(t)])),
    "branch": lambda t: helper.make_model(graph_with([branch(t)])),
    "sparse constant": lambda t: helper.make_model(
        graph_with([helper.make_node("Constant", [], ["c"], sparse_value=sparse(t))])
    ),
    "sparse initializer": with_sparse_initializer,
    "list of tensors": lambda t: helper.make_model(graph_with([helper.make_node("Own", [], ["c"], all=[t])])),
    "function": function,
}


@pytest.mark.parametrize("place", PLACES)
def test_weights_elsewhere_are_found_wherever_they_are_named(place, tmp_path):
    path = tmp_path / "model.onnx"
    path.write_bytes(PLACES[place](external_tensor()).SerializeToString())
    with pytest.raises(PackageError, match=r"weights in another file.*could lead anywhere"):
        require_self_contained(path)
    inside = numpy_helper.from_array(np.zeros(4, np.float32), "secret")
    path.write_bytes(PLACES[place](inside).SerializeToString())
    require_self_contained(path)


def test_weights_saved_beside_the_graph_are_found_and_joined_as_told(tmp_path):
    path = halving(tmp_path / "model.onnx", external="weights.bin")
    assert (tmp_path / "weights.bin").exists()
    with pytest.raises(PackageError, match=r"onnx.save\(onnx.load\(FILE\), NEW\)"):
        require_self_contained(path)
    onnx.save(onnx.load(path), tmp_path / "joined.onnx")
    require_self_contained(tmp_path / "joined.onnx")
