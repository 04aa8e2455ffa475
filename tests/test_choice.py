"""The contest of runtimes, held between fakes of known speed and correctness, and once between real ones."""

from __future__ import annotations

import re
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from geoseg import choice as choice_module
from geoseg.choice import (
    Choice,
    Trial,
    choose_for,
    choose_runtime,
    decide_contest,
    recall_choice,
    worth_choosing,
)
from geoseg.errors import PackageError
from geoseg.legend import Legend, LegendClass
from geoseg.package import Architecture, Band, Card, Graph, read_card
from geoseg.raster.scene import open_scene
from geoseg.survey import Sample, sample_patches
from geoseg.tiling import Lattice, TilePlan


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("GEOSEG_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(choice_module, "_BRIEF", 0.0)


def card_with(**changes: object) -> Card:
    fields = {
        "architecture": Architecture(name="unet", encoder="resnet18"),
        "bands": (Band(name="a", mean=0, std=1),),
        "dtype": "uint8",
        "legend": Legend(classes=(LegendClass(id=1, name="x", color="#000000"),)),
        "patch_px": 64,
        "overlap_px": 0,
        "stride_px": 16,
        "weights_sha256": "0" * 64,
    }
    return Card(**(fields | changes))


CARD = card_with()
PIXELS = np.random.default_rng(0).normal(size=(4, 1, 100, 100)).astype(np.float32)
SAMPLE = Sample(pixels=PIXELS, valid=np.ones((4, 100, 100), bool))


class Fake:
    """Scores x and -x; takes `seconds` a call, and may err in some pixels, by some amount, or altogether."""

    def __init__(self, seconds=0.002, *, wrong=0, noise=0.0, value=None, error=None, one_at_a_time=False):
        self.seconds, self.wrong, self.noise, self.value, self.error = seconds, wrong, noise, value, error
        self.lock = threading.Lock() if one_at_a_time else None
        self.calls = 0

    def __call__(self, batch):
        self.calls += 1
        if self.error and self.calls > self.error[0]:
            raise self.error[1]
        if self.lock:
            with self.lock:
                time.sleep(self.seconds)
        else:
            time.sleep(self.seconds)
        logits = np.concatenate([batch, -batch], axis=1) + np.float32(self.noise)
        flat = logits.reshape(2, -1)
        flat[:, : self.wrong] *= -1
        if self.value is not None:
            flat[0, 7] = self.value
        return logits


def loader(fakes):
    """Loads fakes by name; an exception in the place of a fake is raised."""

    def load(_package, /, *, runtime, device, cores):
        assert (device, cores) == ("cpu", 2)
        load.asked.append(runtime)
        if isinstance(fakes[runtime], Exception):
            raise fakes[runtime]
        return CARD, fakes[runtime]

    load.asked = []
    return load


def contest(fakes, *, card=CARD, tmp_path=None, load=None, sample=SAMPLE):
    return choose_runtime(
        tmp_path, card, sample, device="cpu", cores=2, load=load or loader(fakes), runtimes=list(fakes)
    )


def test_the_fastest_that_agrees_is_chosen_and_everybody_is_told_of() -> None:
    chosen = contest(
        {
            "openvino": Fake(0.004),
            "torch": Fake(0.02),
            "onnxruntime": Fake(0.002, wrong=2),  # 8 of 40,000 pixels: too many
            "torch-folded": Fake(0.01, wrong=1, noise=0.25),  # 4 of 40,000: as many as are allowed
        }
    )
    assert chosen.name == "openvino"
    assert [t.name for t in chosen.trials] == ["torch", "openvino", "onnxruntime", "torch-folded"]
    reference, fast, wrong, slower = chosen.trials
    assert (reference.differs, reference.max_difference, reference.problem) == (0, 0, None)
    assert (fast.differs, fast.problem) == (0, None)
    assert wrong.differs == 8e-4 / 4
    assert "0.020 %" in wrong.problem
    assert wrong.mpx_per_s > fast.mpx_per_s, "it is timed all the same"
    assert (slower.differs, slower.problem) == (1e-4, None)
    assert slower.max_difference == pytest.approx(2 * abs(PIXELS.reshape(4, -1)[:, 0]).max(), abs=0.3)
    # Two calls at once, each of a patch of 0.01 Mpx.
    assert reference.mpx_per_s == pytest.approx(2 * 0.01 / 0.02, rel=0.4)
    assert fast.mpx_per_s < 2 * 0.01 / 0.004
    assert "times as fast as torch" in chosen.reason
    assert chosen.sample_px == 40_000
    assert Choice.model_validate_json(chosen.model_dump_json()) == chosen


def test_only_valid_pixels_count() -> None:
    """Where there is no data all answer alike, or not, and nobody cares."""
    quarter, corner = np.zeros((4, 100, 100), bool), np.zeros((4, 100, 100), bool)
    quarter[:, :25] = True
    corner[:, 50:, 50:] = True
    fakes = {"torch": Fake(0.02), "onnxruntime": Fake(0.002, wrong=1)}  # in each patch, the first pixel
    everywhere = contest(fakes)
    assert (everywhere.name, everywhere.trials[1].differs) == ("onnxruntime", 1e-4)
    diluted = contest(fakes, sample=Sample(pixels=PIXELS, valid=quarter), card=card_with(licence="a"))
    assert (diluted.name, diluted.trials[1].differs, diluted.sample_px) == ("torch", 4e-4, 10_000)
    elsewhere = contest(fakes, sample=Sample(pixels=PIXELS, valid=corner), card=card_with(licence="b"))
    assert (elsewhere.name, elsewhere.trials[1].differs) == ("onnxruntime", 0)
    assert elsewhere.trials[1].max_difference == 0


def test_a_runtime_that_takes_one_call_at_a_time_is_timed_so() -> None:
    """Two calls of one core each are as fast as one call, of half the time, on both."""
    chosen = contest({"torch": Fake(0.02), "openvino": Fake(0.011, one_at_a_time=True)})
    assert chosen.name == "torch"
    assert "torch" not in chosen.reason
    assert "openvino: 0." in chosen.reason


@pytest.mark.parametrize(
    ("fake", "told"),
    [
        (ImportError("No module named 'openvino'"), "ImportError: No module named 'openvino'"),
        (PackageError("it has an operator OpenVINO lacks"), "it has an operator OpenVINO lacks"),
        (Fake(0, error=(0, RuntimeError("first call\nfails"))), "RuntimeError: first call fails"),
        (Fake(0, error=(6, MemoryError())), "MemoryError"),
        (Fake(0, value=np.nan), "scores that are not finite"),
        (Fake(0, value=np.inf), "scores that are not finite"),
        (lambda batch: batch, "scores of shape (1, 1, 100, 100), not (1, 2, 100, 100)"),
    ],
)
def test_what_cannot_be_used_is_out_with_a_reason(fake, told) -> None:
    chosen = contest({"torch": Fake(), "openvino": fake})
    assert chosen.name == "torch"
    assert told in chosen.trials[1].problem
    assert told in chosen.reason


def test_without_the_reference_there_is_no_contest() -> None:
    with pytest.raises(PackageError, match="weights are gone"):
        contest({"torch": PackageError("weights are gone"), "openvino": Fake()})


def test_a_small_gain_is_not_worth_leaving_the_reference() -> None:
    reference = Trial(name="torch", differs=0, max_difference=0, mpx_per_s=1.0)
    near = Trial(name="openvino", differs=0, max_difference=0, mpx_per_s=1.09)
    clear = Trial(name="onnxruntime", differs=0, max_difference=0, mpx_per_s=1.11)
    assert decide_contest([reference, near], sample_px=1).name == "torch"
    assert decide_contest([reference, near, clear], sample_px=1).name == "onnxruntime"


def test_a_graph_is_held_against_onnx_runtime() -> None:
    card = card_with(architecture=None, graph=Graph(input="x", output="y"))
    fakes = {"torch": None, "onnxruntime": Fake(0.02), "torch-folded": None, "openvino": Fake(0.002)}
    chosen = contest(fakes, card=card)
    assert chosen.name == "openvino"
    assert [t.name for t in chosen.trials] == ["onnxruntime", "openvino"]


def test_a_graph_where_only_openvino_is_installed(monkeypatch) -> None:
    monkeypatch.setattr(choice_module, "find_spec", lambda name: None if name == "onnxruntime" else object())
    card = card_with(architecture=None, graph=Graph(input="x", output="y"))
    chosen = contest({"torch": None, "openvino": None}, card=card)
    assert (chosen.name, chosen.trials) == ("openvino", ())


def test_alone_or_against_the_slow_to_start_the_reference_needs_no_contest() -> None:
    for names in (["torch"], ["torch", "torch-compile"]):
        load = loader({})
        chosen = contest(dict.fromkeys(names), load=load)
        assert (chosen.name, chosen.trials, load.asked) == ("torch", (), [])
    with_other = contest({"torch": Fake(), "torch-compile": Fake(), "openvino": Fake()})
    assert "ask for it by name" in with_other.trials[1].problem


def test_the_outcome_is_remembered_for_the_same_circumstances(monkeypatch) -> None:
    fakes = {"torch": Fake(0.01), "openvino": Fake(0.001)}
    first = contest(fakes)
    assert not first.remembered
    load = loader({})
    again = contest(fakes, load=load)
    assert load.asked == []
    assert again == first.model_copy(update={"remembered": True})
    assert recall_choice(CARD, (100, 100), device="cpu", cores=2) == again
    for card, shape, device, cores in (
        (card_with(licence="other"), (100, 100), "cpu", 2),
        (CARD, (100, 64), "cpu", 2),
        (CARD, (100, 100), "auto", 2),
        (CARD, (100, 100), "cpu", 1),
    ):
        assert recall_choice(card, shape, device=device, cores=cores) is None
    monkeypatch.setattr(choice_module, "version", lambda _: "another")
    assert recall_choice(CARD, (100, 100), device="cpu", cores=2) is None


def test_an_entry_of_another_form_is_as_good_as_none(monkeypatch) -> None:
    monkeypatch.setattr(choice_module, "recall", lambda _: {"name": "torch", "why": "?"})
    assert recall_choice(CARD, (100, 100), device="cpu", cores=2) is None


def test_a_device_that_decides_is_timed_deciding() -> None:
    class Deciding(Fake):
        def decide(self, batch, confidence):
            assert (batch.shape, confidence) == (PIXELS.shape, "probability")
            time.sleep(0.001)

    chosen = contest({"torch": Fake(0.01), "torch-fp16": Deciding(0.05)})
    assert chosen.name == "torch-fp16"


def test_only_jobs_that_outweigh_a_contest_have_one(make_scene, package, monkeypatch) -> None:
    assert not worth_choosing(10_000_000)
    assert worth_choosing(100_000_000)
    scene, card = open_scene(make_scene((100, 100))), read_card(package)
    plan = TilePlan(lattice=Lattice.of((100, 100), patch_px=64, overlap_px=0, stride_px=32), tile_px=64)
    held = []

    def hold(function, _package, _card, sample, **options):
        assert function is choose_runtime
        held.append((sample.pixels.shape, options))
        return Choice(name="openvino", reason="because")

    monkeypatch.setattr(choice_module, "run_apart", hold)
    small = choose_for(scene, package, card, plan, device="cpu", cores=2)
    assert (small.name, held) == ("torch", [])
    assert "too small" in small.reason
    monkeypatch.setattr(choice_module, "_WORTH_PX", 100 * 100)
    assert choose_for(scene, package, card, plan, device="cpu", cores=2).name == "openvino"
    assert held == [((4, 3, 64, 64), {"device": "cpu", "cores": 2})]
    remembered = Choice(name="onnxruntime", reason="of old", remembered=True)
    monkeypatch.setattr(choice_module, "recall_choice", lambda *_, **__: remembered)
    assert choose_for(scene, package, card, plan, device="cpu", cores=2) == remembered


def test_a_scene_of_hardly_any_data_has_no_contest(make_raster, package, monkeypatch) -> None:
    values = np.zeros((3, 300, 300), np.uint8)
    values[:, 100:150, 100:150] = 9
    scene = open_scene(make_raster(values, nodata=0, descriptions=("red", "green", "blue")))
    plan = TilePlan(lattice=Lattice.of((300, 300), patch_px=64, overlap_px=0, stride_px=32), tile_px=64)
    monkeypatch.setattr(choice_module, "_WORTH_PX", 0)
    monkeypatch.setattr(choice_module, "run_apart", None)
    chosen = choose_for(scene, package, read_card(package), plan, device="cpu", cores=1)
    assert chosen.name == "torch"
    assert re.search(r"holds [1-9],?\d* valid pixels only", chosen.reason)


def test_a_contest_that_dies_does_not_take_the_job_with_it(
    make_scene, package, tmp_path, monkeypatch
) -> None:
    scene, card = open_scene(make_scene((150, 150))), read_card(package)
    plan = TilePlan(lattice=Lattice.of((150, 150), patch_px=64, overlap_px=0, stride_px=32), tile_px=64)
    monkeypatch.setattr(choice_module, "_WORTH_PX", 0)
    chosen = choose_for(scene, tmp_path / "gone", card, plan, device="cpu", cores=1)
    assert chosen.name == "torch"
    assert "could not be held" in chosen.reason
    assert "not a model package" in chosen.reason


def test_real_runtimes_compete_on_real_pixels(make_scene, package) -> None:
    """Exporting a network for the others takes long; two are enough to try the way to the real loader."""
    scene, card = open_scene(make_scene((150, 130))), read_card(package)
    plan = TilePlan(lattice=Lattice.of((150, 130), patch_px=64, overlap_px=0, stride_px=32), tile_px=64)
    sample = sample_patches(scene, card, plan, 2)
    runtimes = ["torch-folded", "torch", "onnxruntime of another planet"]
    chosen = choose_runtime(package, card, sample, device="cpu", cores=1, runtimes=runtimes)
    reference, folded, unknown = chosen.trials
    assert reference.mpx_per_s > 0
    assert folded.problem is None
    assert 0 < folded.max_difference < 0.1
    assert "there is no such runtime" in unknown.problem


def test_contests_at_once_do_not_disturb_each_other() -> None:
    fakes = [{"torch": Fake(0.01), "openvino": Fake(0.001)} for _ in range(2)]
    with ThreadPoolExecutor(2) as pool:
        assert [c.name for c in pool.map(contest, fakes)] == ["openvino", "openvino"]
