from __future__ import annotations

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from importlib import import_module

import numpy as np
import pytest
import torch

from geoseg.errors import PackageError, UsageError
from geoseg.models import catalogue, cuda, runtime, store
from geoseg.models.catalogue import RUNTIMES
from geoseg.models.devices import devices
from geoseg.models.runtime import available_runtimes, load_predictor
from geoseg.models.store import save_package
from geoseg.package import CARD_NAME, Card, Graph, read_card


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
def batch():
    return np.random.default_rng(0).standard_normal((2, 4, 33, 47), dtype=np.float32)


class TestLoading:
    def test_is_done_once_per_package(self, package, batch):
        card, predictor = load_predictor(package, device="cpu")
        again = load_predictor(
            package.parent / "." / "model", device="auto" if len(devices()) == 1 else "cpu"
        )
        assert again == (card, predictor)
        assert card == read_card(package)
        assert predictor(batch).shape == (2, 3, 33, 47)

    def test_notices_a_new_package_in_the_same_place(self, package, small_network, card_fields):
        first = load_predictor(package, device="cpu")[1]
        fields = card_fields("linknet") | {"licence": "CC0"}
        save_package(package, model=small_network("linknet"), overwrite=True, **fields)
        card, second = load_predictor(package, device="cpu")
        assert card.licence == "CC0"
        assert second is not first

    def test_from_many_threads_loads_once_and_agrees(self, package, batch, monkeypatch):
        loads = []
        real = store.load_package

        def counted(folder):
            loads.append(folder)
            return real(folder)

        monkeypatch.setattr(store, "load_package", counted)
        with ThreadPoolExecutor(4) as pool:
            results = list(pool.map(lambda _: load_predictor(package, device="cpu")[1](batch), range(8)))
        assert len(loads) == 1
        assert all(np.array_equal(r, results[0]) for r in results)

    def test_keeps_a_few_packages_only(self, small_network, card_fields, tmp_path):
        for i in range(runtime._KEPT + 2):
            fields = card_fields("linknet") | {"licence": f"licence {i}"}
            save_package(tmp_path / str(i), model=small_network("linknet"), **fields)
            load_predictor(tmp_path / str(i), device="cpu")
        assert len(runtime._cache) == runtime._KEPT

    def test_failures_are_not_remembered(self, package):
        weights = package / "weights.safetensors"
        data = weights.read_bytes()
        weights.write_bytes(data[:-1])
        with pytest.raises(PackageError, match="altered"):
            load_predictor(package, device="cpu")
        weights.write_bytes(data)
        assert load_predictor(package, device="cpu")[0].stride_px == 32


class TestCores:
    @pytest.mark.parametrize(
        ("cores", "max_calls", "calls"), [(1, None, 1), (3, None, 3), (3, 2, 2), (2, 5, 2), (1, 1, 1)]
    )
    def test_are_calls_at_once(self, package, cores, max_calls, calls):
        gate = load_predictor(package, device="cpu", cores=cores, max_calls=max_calls)[1]
        assert gate.calls == calls

    def test_are_those_asked_for_whatever_was_loaded_before(self, package):
        assert [load_predictor(package, device="cpu", cores=n)[1].calls for n in (1, 3, 1)] == [1, 3, 1]

    @pytest.mark.parametrize("name", ["torch", "torch-folded"])
    def test_change_nothing_in_the_result(self, package, batch, name):
        before = torch.get_num_threads()
        try:
            results = []
            for cores in (1, 2, 4):
                torch.set_num_threads(cores)
                results.append(load_predictor(package, runtime=name, device="cpu", cores=cores)[1](batch))
        finally:
            torch.set_num_threads(before)
        assert np.array_equal(results[0], results[1])
        assert np.array_equal(results[0], results[2])

    @pytest.mark.parametrize("wrong", [{"cores": 0}, {"max_calls": 0}])
    def test_are_one_at_least(self, package, wrong):
        with pytest.raises(UsageError, match=f"{next(iter(wrong))} must be at least 1, not 0"):
            load_predictor(package, **wrong)


class TestRuntimes:
    def test_begin_with_the_reference(self):
        assert next(iter(RUNTIMES)) == available_runtimes("cpu")[0] == "torch"
        assert {"torch", "torch-folded"} <= set(available_runtimes("cpu"))
        assert all(RUNTIMES[name].cpu for name in available_runtimes("cpu"))

    def test_folded_is_nearly_the_reference(self, package, batch):
        exact = load_predictor(package, device="cpu")[1](batch)
        folded = load_predictor(package, runtime="torch-folded", device="cpu")[1](batch)
        assert 0 < np.abs(folded - exact).max() < 1e-4 * np.abs(exact).max()

    @pytest.mark.parametrize(
        ("name", "module", "loader"),
        [("onnxruntime", "ort", "load_ort"), ("openvino", "ov", "load_openvino")],
    )
    def test_of_others_make_one_call_of_all_cores(self, package, batch, monkeypatch, name, module, loader):
        asked = []
        monkeypatch.setattr(catalogue, "find_spec", lambda module: object())
        monkeypatch.setattr(
            import_module(f"geoseg.models.{module}"),
            loader,
            lambda *given, threads: asked.append((*given, threads)) or (lambda batch: batch + 1),
        )
        card, predictor = load_predictor(package, runtime=name, cores=3, max_calls=2)
        assert asked == [(package, card, 3)]
        assert card == read_card(package)
        assert predictor.calls == 2  # of which one computes
        assert np.array_equal(predictor(batch), batch + 1)

    def test_unknown(self, package):
        with pytest.raises(UsageError, match=r"runtime 'tflite'. Expected one of: torch, torch-folded"):
            load_predictor(package, runtime="tflite")

    @pytest.mark.parametrize(("name", "extra"), [("openvino", "openvino"), ("onnxruntime", "onnx")])
    def test_that_are_not_installed_say_how(self, package, monkeypatch, name, extra):
        monkeypatch.setattr(catalogue, "find_spec", lambda module: None if module == name else object())
        with pytest.raises(UsageError, match=rf"no such package. pip install 'geoseg\[{extra}\]'"):
            load_predictor(package, runtime=name)
        assert name not in available_runtimes("cpu")

    def test_that_need_a_gpu_say_so(self, package, monkeypatch):
        monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
        for device in ("auto", "cpu"):
            with pytest.raises(
                UsageError, match=r"'torch-bf16'.*a CUDA device; here are: cpu.*one of: torch"
            ):
                load_predictor(package, runtime="torch-bf16", device=device)

    def test_that_cannot_use_a_gpu_say_so(self, package, monkeypatch):
        monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
        monkeypatch.setattr(catalogue, "find_spec", lambda module: object())
        with pytest.raises(UsageError, match=r"'openvino', device 'cuda:0'.*the CPU; here are: cpu, cuda:0"):
            load_predictor(package, runtime="openvino", device="cuda:0")
        assert available_runtimes("auto") == tuple(n for n, r in RUNTIMES.items() if r.cuda)
        assert available_runtimes("cpu") == tuple(n for n, r in RUNTIMES.items() if r.cpu)

    def test_of_torch_do_not_run_graphs(self, package):
        card = read_card(package)
        graph = card.model_copy(update={"architecture": None, "graph": Graph(input="x", output="y")})
        (package / CARD_NAME).write_text(graph.to_json())
        with pytest.raises(
            UsageError, match=r"ONNX graph.*one of: onnxruntime, openvino; found torch-folded"
        ):
            load_predictor(package, runtime="torch-folded", device="cpu")


class TestGpus:
    """Which predictor is made for which device, with the network left on the CPU."""

    @pytest.fixture
    def made(self, monkeypatch):
        made = []
        real = cuda.CudaPredictor

        def recorded(model, *, device, **options):
            made.append((device, options))
            return real(model, device="cpu", **options)

        monkeypatch.setattr(cuda, "CudaPredictor", recorded)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
        return made

    @pytest.mark.parametrize(
        ("device", "places"),
        [("auto", ["cuda:0", "cuda:1"]), ("cuda", ["cuda:0", "cuda:1"]), ("cuda:1", ["cuda:1"])],
    )
    def test_get_a_predictor_each(self, package, batch, made, device, places):
        gate = load_predictor(package, device=device, cores=8)[1]
        assert [place for place, _ in made] == places
        assert gate.calls == 2 * len(places)
        index, _ = gate.decide(batch, None)
        assert np.array_equal(index, load_predictor(package, device="cpu")[1](batch).argmax(axis=1))

    @pytest.mark.parametrize(
        ("name", "precision", "compiled"),
        [
            ("torch", "float32", False),
            ("torch-folded", "float32", False),
            ("torch-bf16", "bfloat16", False),
            ("torch-fp16", "float16", False),
            ("torch-compile", "bfloat16", True),
        ],
    )
    def test_compute_as_the_runtime_says(self, package, made, name, precision, compiled):
        load_predictor(package, runtime=name, device="cuda:0")
        ((_, options),) = made
        assert (options["precision"], options["compiled"]) == (precision, compiled)
        assert options["bands"] == 4

    def test_are_told_what_a_call_takes(self, small_network, card_fields, tmp_path, made):
        save_package(tmp_path / "m", model=small_network("linknet"), **card_fields("linknet"))
        text = (tmp_path / "m" / CARD_NAME).read_text()
        card = Card.from_json(text, source="").model_copy(update={"call_bytes_per_px": 321})
        (tmp_path / "m" / CARD_NAME).write_text(card.to_json())
        load_predictor(tmp_path / "m", device="cuda:1")
        assert made[0][1]["call_bytes_per_px"] == 321

    def test_each_have_their_own_copy_of_the_network(self, package, made):
        gate = load_predictor(package, device="cuda")[1]
        networks = {id(gate._free.get_nowait()._model) for _ in range(gate.calls)}
        assert len(networks) == 2

    @pytest.mark.gpu
    @pytest.mark.skipif(len(devices()) == 1, reason="needs a CUDA device")
    @pytest.mark.parametrize("name", [n for n, r in RUNTIMES.items() if r.cuda])
    def test_agree_with_the_cpu(self, package, batch, name):
        on_cpu = load_predictor(package, device="cpu")[1](batch)
        on_gpu = load_predictor(package, runtime=name, device="cuda")[1](batch)
        exact = RUNTIMES[name].precision == "float32"
        np.testing.assert_allclose(
            on_gpu, on_cpu, rtol=1e-3, atol=1e-4 if exact else 0.05 * np.abs(on_cpu).max()
        )


def test_names_are_known_without_any_runtime():
    script = (
        "import sys; from geoseg.models.runtime import available_runtimes; available_runtimes('cpu')\n"
        "print(sorted({'torch', 'onnxruntime', 'openvino'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
