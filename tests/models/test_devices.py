from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from geoseg.errors import UsageError
from geoseg.models.devices import devices, one_thread, resolve_device, resolve_devices, set_threads


@pytest.fixture
def _threads():
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


class TestDevices:
    def test_without_cuda(self, monkeypatch):
        monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
        assert devices() == ("cpu",)
        assert resolve_device("auto") == resolve_device("cpu") == "cpu"
        with pytest.raises(UsageError, match=r"'cuda:1'. Expected one of: auto, cpu; found no usable CUDA"):
            resolve_device("cuda:1")
        with pytest.raises(UsageError, match=r"'cuda'. Expected one of: auto, cpu; found no usable CUDA"):
            resolve_devices("cuda")

    def test_with_two_gpus(self, monkeypatch):
        monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
        assert resolve_device("auto") == resolve_device("cuda") == "cuda:0"
        assert resolve_devices("auto") == resolve_devices("cuda") == ("cuda:0", "cuda:1")
        assert resolve_device("cuda:1") == "cuda:1"
        assert resolve_devices("cuda:1") == ("cuda:1",)
        assert resolve_devices("cpu") == ("cpu",)
        with pytest.raises(UsageError, match="one of: auto, cpu, cuda:0, cuda:1; found another name"):
            resolve_device("cuda:2")

    def test_nonsense(self):
        with pytest.raises(UsageError, match="device 'gpu'"):
            resolve_device("gpu")


@pytest.mark.usefixtures("_threads")
class TestThreads:
    def test_are_set_when_told(self):
        set_threads(2)
        assert torch.get_num_threads() == 2
        set_threads(None)
        assert torch.get_num_threads() == 2
        set_threads(1)
        assert torch.get_num_threads() == 1

    def test_are_one_at_least(self):
        with pytest.raises(UsageError, match="at least 1, not 0"):
            set_threads(0)

    def test_one_thread_is_given_back_even_after_an_error(self):
        set_threads(2)
        with one_thread():
            assert torch.get_num_threads() == 1
        assert torch.get_num_threads() == 2
        with pytest.raises(KeyError), one_thread():
            raise KeyError
        assert torch.get_num_threads() == 2

    def test_one_thread_is_the_business_of_the_thread_that_asks(self):
        set_threads(2)
        with ThreadPoolExecutor(1) as pool:
            assert pool.submit(torch.get_num_threads).result() == 2  # it has begun
            with one_thread():
                assert pool.submit(torch.get_num_threads).result() == 2
