"""What does not need a GPU is tried on the CPU with the same code; the rest is marked gpu."""

from __future__ import annotations

import copy
import threading
import weakref
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from torch import nn

from geoseg.errors import ExecutionError, MismatchError
from geoseg.models import cuda
from geoseg.models.cuda import CudaPredictor
from geoseg.models.devices import devices
from geoseg.models.pytorch import TorchPredictor
from geoseg.models.segmenter import Segmenter
from geoseg.stitch import CONFIDENCES, decide

needs_gpu = pytest.mark.skipif(len(devices()) == 1, reason="needs a CUDA device")


class Logits(nn.Module):
    """Gives back its input; remembers the sizes of the batches, fails for more than `room` pixels."""

    def __init__(self, room=10**9, error=None):
        super().__init__()
        self.room, self.error = room, error or torch.OutOfMemoryError("CUDA out of memory. Tried to allocate")
        self.seen = []

    def forward(self, x):
        self.seen.append(len(x))
        if x[:, 0].numel() > self.room:
            raise self.error
        return x * 1.0


def predictor(network, bands=3, **options):
    return CudaPredictor(Segmenter(network, stride_px=1), bands=bands, device="cpu", **options)


def patches(n=5, bands=3, shape=(8, 12), scale=4.0):
    rng = np.random.default_rng(0)
    return (rng.standard_normal((n, bands, *shape)) * scale).astype(np.float32)


class TestAnswers:
    @pytest.mark.parametrize("name", ["linknet", "segnet"])
    def test_are_those_of_the_reference(self, small_network, name):
        model = small_network(name)
        batch = patches(bands=4, shape=(33, 47), scale=1.0)
        logits = CudaPredictor(model, bands=4, device="cpu")(batch)
        assert logits.flags.c_contiguous
        np.testing.assert_allclose(logits, TorchPredictor(model, bands=4)(batch), rtol=1e-4, atol=1e-5)

    @pytest.mark.parametrize("kind", [None, *CONFIDENCES])
    @pytest.mark.parametrize("classes", [1, 2, 7])
    def test_decisions_are_those_of_numpy(self, classes, kind):
        logits = patches(3, classes, (40, 50))
        index, confidence = predictor(Logits(), bands=classes).decide(logits, kind)
        wanted = [decide(scores, confidence=kind) for scores in logits]
        assert index.dtype == np.uint8
        assert np.array_equal(index, [d.index for d in wanted])
        if kind is None:
            assert confidence is None
            return
        assert confidence.dtype == np.uint8
        # exp and log round differently in torch and numpy; that shows where a percent is about to turn.
        off = np.abs(confidence.astype(int) - np.array([d.confidence for d in wanted], int))
        assert off.max() <= 1
        assert (off > 0).mean() < 0.002

    def test_ties_go_to_the_lower_index(self):
        logits = np.random.default_rng(1).integers(0, 3, (2, 9, 64, 64)).astype(np.float32)
        index, confidence = predictor(Logits(), bands=9).decide(logits, "margin")
        assert np.array_equal(index, logits.argmax(axis=1))
        tied = (logits == logits.max(axis=1, keepdims=True)).sum(axis=1) > 1
        assert (confidence[tied] == 0).all()
        assert tied.any()

    @pytest.mark.parametrize("bad", [np.nan, np.inf])
    @pytest.mark.parametrize("call", [lambda p, b: p(b), lambda p, b: p.decide(b, "probability")])
    def test_must_be_finite(self, bad, call):
        batch = patches()
        batch[3, 1, 2, 5] = bad
        with pytest.raises(ExecutionError, match=r"5 patches of 8 x 12 px on cpu.*finite.*in float32"):
            call(predictor(Logits()), batch)

    def test_want_the_bands_of_the_network(self):
        with pytest.raises(MismatchError, match=r"\(n, 3, h, w\)"):
            predictor(Logits()).decide(patches(bands=2), None)


class TestPrecision:
    @pytest.mark.parametrize("precision", ["bfloat16", "float16"])
    def test_is_that_of_the_convolutions_and_not_of_the_scores(self, small_network, precision):
        seen = []
        model = small_network("linknet")
        batch = patches(2, 4, (32, 64), scale=1.0)
        handle = model.get_submodule("network.segmentation_head.0").register_forward_hook(
            lambda _module, _inputs, out: seen.append(out.dtype)
        )
        try:
            reduced = CudaPredictor(model, bands=4, device="cpu", precision=precision)
            logits, (index, _) = reduced(batch), reduced.decide(batch, "probability")
        finally:
            handle.remove()
        exact = CudaPredictor(model, bands=4, device="cpu")(batch)
        assert seen == [getattr(torch, precision)] * 2
        assert logits.dtype == np.float32
        assert 0 < np.abs(logits - exact).max() < 0.1 * np.abs(exact).max()
        assert np.array_equal(index, logits.argmax(axis=1))

    def test_compiled_gives_the_same(self, monkeypatch):
        """The graph is captured and run without generating code, which takes a compiler and a minute."""
        real, captured = torch.compile, []

        def backend(graph, inputs):
            captured.append([tuple(i.shape) for i in inputs if isinstance(i, torch.Tensor)])
            return graph.forward

        monkeypatch.setattr(torch, "compile", lambda model: real(model, backend=backend, fullgraph=True))
        model = Segmenter(nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU()), stride_px=8)
        compiled = CudaPredictor(copy.deepcopy(model), bands=3, device="cpu", compiled=True)
        exact = CudaPredictor(model, bands=3, device="cpu")
        for n in (4, 3, 2, 1):  # the last groups of tiles are of any size
            batch = patches(n, shape=(33, 47))
            np.testing.assert_allclose(compiled(batch), exact(batch), rtol=1e-4, atol=1e-5)
        assert 1 <= len(captured) <= 3


class TestMemory:
    @pytest.mark.parametrize("n", [1, 2, 5, 16])
    @pytest.mark.parametrize("room", [1, 2, 3, 16])
    def test_cuts_up_what_does_not_fit(self, n, room):
        network = Logits(room=room * 96)
        small = predictor(network)
        batch = patches(n)
        assert np.array_equal(small(batch), batch)
        index, confidence = small.decide(batch, "probability")
        whole = predictor(Logits()).decide(batch, "probability")
        assert np.array_equal(index, whole[0])
        assert np.array_equal(confidence, whole[1])

    def test_halves_and_remembers_the_size_that_fits(self):
        network = Logits(room=3 * 96)
        small = predictor(network)
        small(patches(8))
        assert network.seen == [8, 4, 2, 2, 2, 2]
        network.seen.clear()
        small.decide(patches(8), None)
        assert network.seen == [2, 2, 2, 2]

    def test_remembers_for_each_shape_of_patch(self):
        network = Logits(room=96)
        small = predictor(network)
        small(patches(2))
        network.seen.clear()
        small(patches(4, shape=(4, 6)))
        small(patches(2))
        assert network.seen == [4, 1, 1]

    def test_a_small_batch_does_not_hold_back_larger_ones(self):
        network = Logits()
        small = predictor(network)
        small(patches(2))
        small(patches(7))
        assert network.seen == [2, 7]

    @pytest.mark.parametrize(
        "text",
        ["CUDA error: out of memory", "cuDNN error: CUDNN_STATUS_ALLOC_FAILED", "CUBLAS_STATUS_ALLOC_FAILED"],
    )
    def test_knows_what_libraries_say_of_it(self, text):
        network = Logits(room=96, error=RuntimeError(text))
        assert len(predictor(network)(patches(2))) == 2
        assert network.seen == [2, 1, 1]

    def test_other_failures_are_not_about_memory(self):
        network = Logits(room=96, error=RuntimeError("illegal address"))
        with pytest.raises(RuntimeError, match="illegal address"):
            predictor(network)(patches(2))
        assert network.seen == [2]

    def test_one_patch_that_does_not_fit_is_tried_twice(self):
        network = Logits(room=95)
        with pytest.raises(ExecutionError, match=r"8 x 12 px on cpu.*smaller --patch-size or --memory"):
            predictor(network)(patches(2))
        assert network.seen == [2, 1, 1]

    def test_one_patch_may_fit_the_second_time(self):
        network = Logits(room=95)
        network.register_forward_pre_hook(lambda net, _: setattr(net, "room", 96 if len(net.seen) else 95))
        assert len(predictor(network)(patches(1))) == 1
        assert network.seen == [1, 1]

    @pytest.mark.parametrize(("free", "batches"), [(10_000, [1] * 5), (34_000, [2, 2, 1]), (10**9, [5])])
    def test_begins_with_what_should_fit(self, monkeypatch, free, batches):
        monkeypatch.setattr(cuda, "free_bytes", lambda device: free)
        network = Logits()
        predictor(network, call_bytes_per_px=100)(patches(5))
        assert network.seen == batches

    def test_nothing_is_held_while_less_is_tried(self, monkeypatch):
        """The exception would keep alive what the failed attempt had allocated."""
        references, alive = [], []

        class Hoarder(nn.Module):
            def forward(self, x):
                held = x * 2
                references.append(weakref.ref(held))
                if len(x) > 1:
                    raise torch.OutOfMemoryError
                return x

        small = predictor(Hoarder())
        shrink = small._shrink
        monkeypatch.setattr(
            small,
            "_shrink",
            lambda part, **k: (alive.append([r() is not None for r in references]), shrink(part, **k)),
        )
        small(patches(2))
        assert alive == [[False]]


class TestTurns:
    def test_computations_take_turns(self):
        inside, most = [], []

        class Slow(nn.Module):
            def forward(self, x):
                inside.append(1)
                most.append(len(inside))
                threading.Event().wait(0.01)
                inside.pop()
                return x

        shared = predictor(Slow())
        with ThreadPoolExecutor(4) as pool:
            results = list(pool.map(shared, [patches(1) + i for i in range(8)]))
        assert max(most) == 1
        assert all(np.array_equal(r, patches(1) + i) for i, r in enumerate(results))

    def test_exactness_is_on_while_anybody_computes_and_off_after(self):
        def state():
            flags = torch.backends.cudnn
            return (
                flags.allow_tf32,
                flags.deterministic,
                flags.benchmark,
                torch.get_float32_matmul_precision(),
            )

        class Look(nn.Module):
            def forward(self, x):
                both.wait(5)  # both are inside
                if x.max() > 5:
                    first_is_out.wait(5)
                seen.append(state())
                return x

        both, first_is_out, seen, before = threading.Barrier(2), threading.Event(), [], state()
        try:
            torch.set_float32_matmul_precision("high")
            wanted = state()
            with ThreadPoolExecutor(2) as pool:
                late = pool.submit(predictor(Look()), patches(1, scale=0) + 9)
                pool.submit(predictor(Look()), patches(1, scale=0)).result()
                first_is_out.set()
                late.result()
            assert seen == [(False, True, False, "highest")] * 2
            assert state() == wanted != before
        finally:
            torch.set_float32_matmul_precision(before[-1])


@pytest.mark.gpu
@needs_gpu
class TestOnAGpu:
    def test_agrees_with_the_cpu(self, small_network):
        model = copy.deepcopy(small_network("linknet"))
        batch = patches(6, 4, (65, 97), scale=1.0)
        wanted = TorchPredictor(model, bands=4)(batch)
        on_gpu = CudaPredictor(copy.deepcopy(model), bands=4, device="cuda:0")
        np.testing.assert_allclose(on_gpu(batch), wanted, rtol=1e-3, atol=1e-4)
        index, confidence = on_gpu.decide(batch, "probability")
        assert (index == wanted.argmax(axis=1)).mean() > 0.999
        assert confidence.max() <= 100

    def test_calls_from_several_threads_do_not_mix(self, small_network):
        model = copy.deepcopy(small_network("linknet"))
        on_gpu = CudaPredictor(model, bands=4, device="cuda:0")
        batches = [patches(3, 4, (128, 128), scale=1.0) + i for i in range(16)]
        alone = [on_gpu.decide(b, "probability") for b in batches]
        with ThreadPoolExecutor(4) as pool:
            together = list(pool.map(lambda b: on_gpu.decide(b, "probability"), batches))
        for one, other in zip(alone, together, strict=True):
            assert np.array_equal(one[0], other[0])
            assert np.array_equal(one[1], other[1])

    def test_cuts_up_what_does_not_fit(self):
        network = nn.Conv2d(3, 64, 3, padding=1)
        on_gpu = CudaPredictor(Segmenter(network, stride_px=1), bands=3, device="cuda:0")
        batch = patches(16, 3, (256, 256))
        wanted = on_gpu.decide(batch, None)[0]
        room = 4 * 64 * 256 * 256 * 4 + torch.cuda.memory_allocated()
        total = torch.cuda.get_device_properties(0).total_memory
        torch.cuda.empty_cache()
        torch.cuda.set_per_process_memory_fraction(3 * room / total)
        try:
            assert np.array_equal(on_gpu.decide(batch, None)[0], wanted)
        finally:
            torch.cuda.set_per_process_memory_fraction(1.0)
        assert on_gpu._fits[256, 256] < 16
