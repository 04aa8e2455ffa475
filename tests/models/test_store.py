from __future__ import annotations

import hashlib
import json
import os
import pickle
import stat

import pytest
import torch
from torch import nn

from geoseg.errors import OutputError, PackageError
from geoseg.models import store
from geoseg.models.registry import build
from geoseg.models.segmenter import Segmenter
from geoseg.models.store import load_package, save_package
from geoseg.package import CARD_NAME, WEIGHTS_NAME, Architecture, read_card


@pytest.fixture
def package(small_network, card_fields, tmp_path):
    folder = tmp_path / "model"
    save_package(folder, model=small_network("linknet"), **card_fields("linknet"))
    return folder


def rewrite(folder, **changes):
    """Change fields of the card as an attacker would, the hash included when asked."""
    card = json.loads((folder / CARD_NAME).read_text())
    (folder / CARD_NAME).write_text(json.dumps(card | changes))


def rehash(folder):
    rewrite(folder, weights_sha256=hashlib.sha256((folder / WEIGHTS_NAME).read_bytes()).hexdigest())


class TestSaving:
    def test_writes_two_files_and_nothing_else(self, package):
        assert sorted(p.name for p in package.iterdir()) == [CARD_NAME, WEIGHTS_NAME]
        assert [p.name for p in package.parent.iterdir()] == ["model"]

    def test_card_says_what_was_given_and_the_hash_is_that_of_the_file(self, package, card_fields):
        card = read_card(package)
        fields = card_fields("linknet")
        assert card.architecture == fields["architecture"]
        assert list(card.bands) == fields["bands"]
        assert card.legend == fields["legend"]
        assert card.stride_px == 32
        assert card.weights_sha256 == hashlib.sha256((package / WEIGHTS_NAME).read_bytes()).hexdigest()

    def test_files_can_be_read_by_those_the_umask_allows(self, package, tmp_path):
        (tmp_path / "plain").mkdir()
        (tmp_path / "plain.txt").touch()
        mode = lambda path: stat.S_IMODE(path.stat().st_mode)  # noqa: E731
        assert mode(package) == mode(tmp_path / "plain")
        assert mode(package / WEIGHTS_NAME) == mode(tmp_path / "plain.txt")

    def test_makes_parents_and_uses_an_empty_folder(self, small_network, card_fields, tmp_path):
        folder = tmp_path / "a" / "b"
        folder.mkdir(parents=True)
        save_package(folder, model=small_network("linknet"), **card_fields("linknet"))
        assert load_package(folder)[0] == read_card(folder)

    def test_refuses_to_replace_a_package_unless_told(self, package, small_network, card_fields):
        before = read_card(package)
        fields = card_fields("linknet") | {"licence": "CC0"}
        with pytest.raises(OutputError, match=r"found a model package\. Give --overwrite"):
            save_package(package, model=small_network("linknet"), **fields)
        assert read_card(package) == before
        save_package(package, model=small_network("linknet"), overwrite=True, **fields)
        assert load_package(package)[0].licence == "CC0"
        assert [p.name for p in package.parent.iterdir()] == ["model"]

    def test_never_replaces_what_is_no_package(self, small_network, card_fields, tmp_path):
        (tmp_path / "thesis").mkdir()
        (tmp_path / "thesis" / "chapter1.txt").write_text("years of work")
        with pytest.raises(OutputError, match=r"not a model package: chapter1\.txt\. Choose another"):
            save_package(
                tmp_path / "thesis", model=small_network("linknet"), overwrite=True, **card_fields("linknet")
            )
        assert (tmp_path / "thesis" / "chapter1.txt").read_text() == "years of work"

    def test_leaves_the_old_package_when_writing_fails(self, package, small_network, card_fields):
        before = read_card(package)
        fields = card_fields("linknet") | {"patch_px": 33}
        with pytest.raises(ValueError, match="patch_px 33 is not a multiple"):
            save_package(package, model=small_network("linknet"), overwrite=True, **fields)
        assert load_package(package)[0] == before
        assert [p.name for p in package.parent.iterdir()] == ["model"]

    def test_puts_the_old_package_back_when_the_rename_fails(
        self, package, small_network, card_fields, monkeypatch
    ):
        before = read_card(package)
        real = store.Path.replace

        def replace(self, target):
            if self.suffix == ".partial":
                raise OSError("disk went away")
            return real(self, target)

        monkeypatch.setattr(store.Path, "replace", replace)
        with pytest.raises(OSError, match="disk went away"):
            save_package(package, model=small_network("linknet"), overwrite=True, **card_fields("linknet"))
        assert load_package(package)[0] == before
        assert [p.name for p in package.parent.iterdir()] == ["model"]

    def test_everything_is_on_disk_before_it_gets_its_name(
        self, small_network, card_fields, tmp_path, monkeypatch
    ):
        events = []
        fsync, replace = os.fsync, store.Path.replace

        def flushed(handle):
            events.append(os.fstat(handle).st_ino)
            fsync(handle)

        def renamed(self, target):
            events.append("renamed")
            return replace(self, target)

        monkeypatch.setattr(store.os, "fsync", flushed)
        monkeypatch.setattr(store.Path, "replace", renamed)
        folder = tmp_path / "model"
        save_package(folder, model=small_network("linknet"), **card_fields("linknet"))
        at = events.index("renamed")
        parts = {p.stat().st_ino for p in (folder, folder / CARD_NAME, folder / WEIGHTS_NAME)}
        assert set(events[:at]) == parts
        assert events[at + 1 :] == [tmp_path.stat().st_ino]

    def test_channels_last_weights_are_stored_like_any_other(self, cheap, card_fields, tmp_path):
        model = build(cheap("linknet"), bands=4, classes=3).eval()
        one = save_package(tmp_path / "one", model=model, **card_fields("linknet"))
        model.to(memory_format=torch.channels_last)
        two = save_package(tmp_path / "two", model=model, **card_fields("linknet"))
        assert one.weights_sha256 == two.weights_sha256

    def test_shared_tensors_survive(self, card_fields, tmp_path, monkeypatch):
        def tied():
            network = nn.Sequential(nn.Conv2d(4, 4, 1), nn.Conv2d(4, 4, 1), nn.Conv2d(4, 3, 1))
            network[1].weight = network[0].weight
            return Segmenter(network, stride_px=1)

        model = tied()
        save_package(tmp_path / "model", model=model, **card_fields("linknet"))
        monkeypatch.setattr(store, "build", lambda *_a, **_k: tied())
        loaded = load_package(tmp_path / "model")[1]
        x = torch.randn(1, 4, 3, 3)
        assert torch.equal(loaded(x), model(x))


class TestRefusals:
    def test_missing_weights(self, package):
        (package / WEIGHTS_NAME).unlink()
        with pytest.raises(PackageError, match=r"has no weights: .*model\. Expected weights\.safetensors"):
            load_package(package)

    def test_altered_byte(self, package):
        path = package / WEIGHTS_NAME
        data = bytearray(path.read_bytes())
        data[len(data) // 2] ^= 1
        path.write_bytes(data)
        with pytest.raises(PackageError, match=r"altered, truncated or mixed up.*Expected sha256 .*found"):
            load_package(package)

    def test_truncated_weights(self, package):
        path = package / WEIGHTS_NAME
        path.write_bytes(path.read_bytes()[:-1])
        with pytest.raises(PackageError, match="altered, truncated"):
            load_package(package)
        rehash(package)  # even when the card has been made to fit
        with pytest.raises(PackageError, match="the weights cannot be read"):
            load_package(package)

    def test_pickle_is_never_opened(self, package, tmp_path):
        class Bomb:
            def __reduce__(self):
                return (exec, (f"open({str(tmp_path / 'exploded')!r}, 'w')",))

        (package / WEIGHTS_NAME).write_bytes(pickle.dumps(Bomb()))
        with pytest.raises(PackageError, match="altered, truncated"):
            load_package(package)
        rehash(package)
        with pytest.raises(PackageError, match=r"Expected a safetensors file.*can run code"):
            load_package(package)
        torch.save({"w": torch.zeros(1)}, package / WEIGHTS_NAME)
        rehash(package)
        with pytest.raises(PackageError, match="Expected a safetensors file"):
            load_package(package)
        assert not (tmp_path / "exploded").exists()

    def test_weights_of_another_network(self, package):
        rewrite(package, architecture={"name": "unet", "encoder": "resnet18", "options": {}})
        with pytest.raises(
            PackageError, match=r"do not fit the network.*found \d+ missing \(.*not in the network"
        ):
            load_package(package)

    def test_weights_of_other_shapes(self, package):
        card = json.loads((package / CARD_NAME).read_text())
        rewrite(package, bands=card["bands"][:2])
        with pytest.raises(
            PackageError, match=r"1 of another shape \(.*0.weight \(32, 4, 3, 3\) for \(32, 2, 3, 3\)\)"
        ):
            load_package(package)

    def test_unknown_architecture(self, package):
        rewrite(package, architecture={"name": "unett", "encoder": "resnet18"})
        with pytest.raises(PackageError, match=r"model\.json.*no architecture 'unett'.*Did you mean"):
            load_package(package)

    def test_stride_that_is_not_the_network_s(self, package):
        rewrite(package, stride_px=16)
        with pytest.raises(PackageError, match="Expected stride_px, a multiple of 32; found 16"):
            load_package(package)


def test_loading_asks_no_hub_for_weights(package, monkeypatch):
    asked = []
    real = store.build

    def build_watched(*args, **kwargs):
        asked.append(kwargs.get("encoder_weights"))
        return real(*args, **kwargs)

    monkeypatch.setattr(store, "build", build_watched)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    load_package(package)
    assert asked == [None]


def test_architecture_options_survive(card_fields, tmp_path):
    architecture = Architecture(
        name="unet", encoder="resnet18", options={"encoder_depth": 3, "decoder_channels": [16, 8, 4]}
    )
    model = build(architecture, bands=4, classes=3)
    save_package(tmp_path / "m", model=model, **card_fields() | {"architecture": architecture})
    card, loaded = load_package(tmp_path / "m")
    assert card.stride_px == loaded.stride_px == 32
