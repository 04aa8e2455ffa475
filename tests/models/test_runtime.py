from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch

from geoseg.errors import MismatchError, PackageError, UsageError
from geoseg.models import runtime
from geoseg.models.registry import build
from geoseg.models.runtime import TorchPredictor, devices, load_predictor, resolve_device
from geoseg.models.store import save_package


@pytest.fixture
def package(small_network, card_fields, tmp_path):
    folder = tmp_path / "model"
    save_package(folder, model=small_network("linknet"), **card_fields("linknet"))
    return folder


@pytest.fixture(autouse=True)
def _forget():
    yield
    runtime._cache.clear()


@pytest.fixture
def _threads():
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture
def batch():
    return np.random.default_rng(0).standard_normal((2, 4, 33, 47), dtype=np.float32)


class TestPredictor:
    def test_gives_the_logits_of_the_network(self, cheap, batch):
        model = build(cheap("linknet"), bands=4, classes=3).eval()
        with torch.inference_mode():
            expected = model(torch.from_numpy(batch)).numpy()
        logits = TorchPredictor(model, bands=4)(batch)
        assert logits.shape == (2, 3, 33, 47)
        assert logits.dtype == np.float32
        np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-5)

    def test_evaluates_whatever_mode_the_network_was_in(self, cheap, batch):
        model = build(cheap("pspnet"), bands=4, classes=3).train()
        predictor = TorchPredictor(model, bands=4)
        before = {k: v.clone() for k, v in model.state_dict().items()}
        first = predictor(batch)
        assert np.array_equal(first, predictor(batch))
        assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())

    def test_takes_read_only_batches_and_leaves_them_alone(self, cheap, batch):
        predictor = TorchPredictor(build(cheap("linknet"), bands=4, classes=3), bands=4)
        expected, copy = predictor(batch), batch.copy()
        batch.flags.writeable = False
        assert np.array_equal(predictor(batch), expected)
        assert np.array_equal(batch, copy)

    def test_classes_of_a_pixel_lie_together(self, cheap):
        predictor = TorchPredictor(build(cheap("linknet"), bands=4, classes=3), bands=4)
        logits = predictor(np.ones((1, 4, 64, 64), np.float32))
        assert logits.strides[1] == logits.itemsize

    @pytest.mark.parametrize(
        "wrong",
        [np.zeros((4, 32, 32), np.float32), np.zeros((1, 3, 32, 32), np.float32), np.zeros((1, 4, 32, 32))],
    )
    def test_refuses_other_batches(self, cheap, wrong):
        predictor = TorchPredictor(build(cheap("linknet"), bands=4, classes=3), bands=4)
        with pytest.raises(MismatchError, match=r"float32 of shape \(n, 4, h, w\); found"):
            predictor(wrong)


class TestLoading:
    def test_is_done_once_per_package(self, package, batch):
        card, predictor = load_predictor(package, device="cpu")
        again = load_predictor(
            package.parent / "." / "model", device="auto" if len(devices()) == 1 else "cpu"
        )
        assert again == (card, predictor)
        assert predictor(batch).shape == (2, 3, 33, 47)

    def test_notices_a_new_package_in_the_same_place(self, package, small_network, card_fields):
        first = load_predictor(package)[1]
        fields = card_fields("linknet") | {"licence": "CC0"}
        save_package(package, model=small_network("linknet"), overwrite=True, **fields)
        card, second = load_predictor(package)
        assert card.licence == "CC0"
        assert second is not first

    def test_from_many_threads_loads_once_and_agrees(self, package, batch, monkeypatch):
        loads = []
        real = runtime.load_package

        def counted(folder):
            loads.append(folder)
            return real(folder)

        monkeypatch.setattr(runtime, "load_package", counted)
        with ThreadPoolExecutor(4) as pool:
            results = list(pool.map(lambda _: load_predictor(package)[1](batch), range(8)))
        assert len(loads) == 1
        assert all(np.array_equal(r, results[0]) for r in results)

    def test_keeps_a_few_packages_only(self, small_network, card_fields, tmp_path):
        for i in range(runtime._KEPT + 2):
            fields = card_fields("linknet") | {"licence": f"licence {i}"}
            save_package(tmp_path / str(i), model=small_network("linknet"), **fields)
            load_predictor(tmp_path / str(i))
        assert len(runtime._cache) == runtime._KEPT

    def test_failures_are_not_remembered(self, package):
        weights = package / "weights.safetensors"
        data = weights.read_bytes()
        weights.write_bytes(data[:-1])
        with pytest.raises(PackageError, match="altered"):
            load_predictor(package)
        weights.write_bytes(data)
        assert load_predictor(package)[0].stride_px == 32

    @pytest.mark.usefixtures("_threads")
    def test_sets_threads_when_told(self, package):
        load_predictor(package, threads=2)
        assert torch.get_num_threads() == 2
        load_predictor(package, threads=1)
        assert torch.get_num_threads() == 1
        load_predictor(package)
        assert torch.get_num_threads() == 1
        with pytest.raises(UsageError, match="at least 1, not 0"):
            load_predictor(package, threads=0)


class TestDevices:
    def test_without_cuda(self, monkeypatch):
        monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
        assert devices() == ("cpu",)
        assert resolve_device("auto") == resolve_device("cpu") == "cpu"
        with pytest.raises(UsageError, match=r"'cuda:1'. Expected one of: auto, cpu; found no usable CUDA"):
            resolve_device("cuda:1")

    def test_with_two_gpus(self, monkeypatch):
        monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
        assert resolve_device("auto") == resolve_device("cuda") == "cuda:0"
        assert resolve_device("cuda:1") == "cuda:1"
        with pytest.raises(UsageError, match="one of: auto, cpu, cuda:0, cuda:1; found another name"):
            resolve_device("cuda:2")

    def test_nonsense(self):
        with pytest.raises(UsageError, match="device 'gpu'"):
            resolve_device("gpu")

    @pytest.mark.gpu
    @pytest.mark.skipif(len(devices()) == 1, reason="needs a CUDA device")
    def test_cuda_agrees_with_the_cpu(self, package, batch):
        on_cpu = load_predictor(package, device="cpu")[1](batch)
        on_gpu = load_predictor(package, device="cuda")[1](batch)
        np.testing.assert_allclose(on_gpu, on_cpu, rtol=1e-3, atol=1e-4)
