from __future__ import annotations

import numpy as np
import pytest
import torch

from geoseg.errors import MismatchError
from geoseg.models.pytorch import TorchPredictor
from geoseg.models.registry import build


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

    def test_takes_any_batch_and_leaves_it_alone(self, cheap, batch):
        predictor = TorchPredictor(build(cheap("linknet"), bands=4, classes=3), bands=4)
        expected, copy = predictor(batch), batch.copy()
        batch.flags.writeable = False
        assert np.array_equal(predictor(batch), expected)
        assert np.array_equal(predictor(batch[..., ::-1].copy()[..., ::-1]), expected)
        assert np.array_equal(batch, copy)

    def test_each_class_is_a_plane(self, cheap):
        predictor = TorchPredictor(build(cheap("linknet"), bands=4, classes=3), bands=4)
        for shape in [(1, 4, 64, 64), (2, 4, 33, 47)]:
            assert predictor(np.ones(shape, np.float32)).flags.c_contiguous

    def test_computes_with_one_thread_and_leaves_the_setting(self, cheap, batch):
        seen = []
        model = build(cheap("linknet"), bands=4, classes=3)
        model.register_forward_hook(lambda *_: seen.append(torch.get_num_threads()))
        before = torch.get_num_threads()
        try:
            torch.set_num_threads(2)
            TorchPredictor(model, bands=4)(batch)
            assert torch.get_num_threads() == 2
        finally:
            torch.set_num_threads(before)
        assert seen == [1]

    @pytest.mark.parametrize(
        "wrong",
        [np.zeros((4, 32, 32), np.float32), np.zeros((1, 3, 32, 32), np.float32), np.zeros((1, 4, 32, 32))],
    )
    def test_refuses_other_batches(self, cheap, wrong):
        predictor = TorchPredictor(build(cheap("linknet"), bands=4, classes=3), bands=4)
        with pytest.raises(MismatchError, match=r"float32 of shape \(n, 4, h, w\); found"):
            predictor(wrong)
