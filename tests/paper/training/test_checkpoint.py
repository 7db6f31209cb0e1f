"""Checkpoints: nothing lost, nothing torn, and everything that is no checkpoint told apart."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("safetensors")

from safetensors.torch import save as save_tensors

from spikefuse._io import atomic_write, provenance, safetensors_file
from spikefuse.paper.models import ANNAutoencoder, ANNRule, SpikingAutoencoder, preset
from spikefuse.paper.seeds import weight_generator
from spikefuse.paper.training import checkpoint
from spikefuse.paper.training.autoencoder import Trainer
from spikefuse.paper.training.checkpoint import CheckpointError
from spikefuse.paper.training.loop import TrainSettings

IMAGES = torch.rand(25, 20, generator=torch.Generator().manual_seed(0))


def trainer(batches: int = 3, dtype: torch.dtype = torch.float32) -> Trainer:
    rule = preset("gated", 20).rule
    model = SpikingAutoencoder(20, 6, rule, init_bound=None, generator=weight_generator(0), dtype=dtype)
    run = Trainer(model, IMAGES, TrainSettings(epochs=2, batch_size=10, steps=5, max_rate=1.0))
    run.run(until=batches)
    return run


def ann_trainer(optimizer: str = "adam") -> Trainer:
    model = ANNAutoencoder(20, 6, ANNRule(optimizer), generator=weight_generator(0))
    run = Trainer(model, IMAGES, TrainSettings(batch_size=10))
    run.run(until=2)
    return run


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "run.safetensors"


def edited(path: Path, change: Callable[[dict[str, Any], dict[str, torch.Tensor]], None]) -> Path:
    """A checkpoint changed by hand, its SHA-256 made to fit again: what only the checks behind it can find."""
    checkpoint.save(path, trainer())
    document, tensors = safetensors_file.read(path, checkpoint.FORMAT, checkpoint.VERSION)
    change(document, tensors)
    document["sha256"] = safetensors_file.digest(document, tensors)
    path.write_bytes(save_tensors(tensors, {"spikefuse": json.dumps(document)}))
    return path


@pytest.mark.parametrize(
    "make", [trainer, lambda: trainer(0), lambda: trainer(2, torch.float64), ann_trainer, lambda: ann_trainer("sgd")]
)
def test_all_of_a_run_comes_back(make: Callable[[], Trainer], path: Path) -> None:
    before = make()
    kept = checkpoint.load(checkpoint.save(path, before, {"dataset": "mine", "limit": None}))
    after = kept.resume(IMAGES)
    assert (after.batch, after.history, after.settings) == (before.batch, before.history, before.settings)
    assert after.seconds == before.seconds
    assert after.model.config() == before.model.config()
    for name, weight in before.model.state_dict().items():
        restored = after.model.state_dict()[name]
        assert torch.equal(restored, weight)
        assert (restored.dtype, restored.stride()) == (weight.dtype, weight.stride())
    assert kept.run == {"dataset": "mine", "limit": None}
    assert kept.versions == provenance.versions()
    if not after.done:
        before.run()
        after.run()
        assert after.history == before.history


def test_training_longer_than_first_asked(path: Path) -> None:
    kept = checkpoint.load(checkpoint.save(path, trainer(6)))
    longer = kept.resume(IMAGES, epochs=3)
    assert (longer.batch, longer.total_batches) == (6, 9)
    with pytest.raises(ValueError, match="epochs >= 2 for 6 batches done, got 1"):
        kept.resume(IMAGES, epochs=1)


@pytest.mark.parametrize("images", [IMAGES[:-1], IMAGES.flip(0), IMAGES + 1e-6])
def test_other_images_are_refused(images: torch.Tensor, path: Path) -> None:
    kept = checkpoint.load(checkpoint.save(path, trainer()))
    with pytest.raises(ValueError, match="the 25 images that the run was on"):
        kept.resume(images)


def test_every_cut_is_noticed(path: Path) -> None:
    content = checkpoint.save(path, trainer()).read_bytes()
    header = 8 + int.from_bytes(content[:8], "little")
    for size in [*range(20), header - 1, header, header + 1, len(content) // 2, len(content) - 1]:
        path.write_bytes(content[:size])
        with pytest.raises(CheckpointError, match=r"cut short|not a checkpoint") as caught:
            checkpoint.load(path)
        assert str(path) in str(caught.value)
        assert size < 9 or "cut short" in str(caught.value), size
    path.write_bytes(content + b"\0")
    with pytest.raises(CheckpointError, match="damaged"):
        checkpoint.load(path)


def test_every_flipped_byte_is_noticed(path: Path) -> None:
    content = checkpoint.save(path, trainer()).read_bytes()
    # A stride that shares no factor with 8 meets header, metadata and every tensor, at every place in a number.
    for position in range(0, len(content), 41):
        damaged = bytearray(content)
        damaged[position] ^= 0x10
        path.write_bytes(damaged)
        with pytest.raises(CheckpointError):
            checkpoint.load(path)


@pytest.mark.parametrize(
    "content", [b"", b"PK\x03\x04 a pickle in a zip file", b"\x08\0\0\0\0\0\0\0{not js}", b"{}", b"\xff" * 64]
)
def test_other_files_are_told_apart(content: bytes, path: Path) -> None:
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match="not a checkpoint"):
        checkpoint.load(path)


def test_other_safetensors_files_are_told_apart(path: Path) -> None:
    for metadata in (
        None,
        {"format": "pt"},
        {"spikefuse": "[1]"},
        {"spikefuse": '{"format": "other"}'},
        {"spikefuse": "{"},
    ):
        path.write_bytes(save_tensors({"x": torch.zeros(3)}, metadata))
        with pytest.raises(CheckpointError, match="not a checkpoint"):
            checkpoint.load(path)


def test_no_file_is_an_os_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        checkpoint.load(tmp_path / "none.safetensors")


def test_another_version_is_named(path: Path) -> None:
    edited(path, lambda document, tensors: document.update(version=2))
    with pytest.raises(CheckpointError, match="version 1, got version 2, written by another release"):
        checkpoint.load(path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d, t: t.pop("model.encoder_weight"), r"model\.encoder_weight is missing"),
        (lambda d, t: t.pop("history.loss"), r"history\.loss is missing"),
        (lambda d, t: d.pop("settings"), "'settings' is missing"),
        (lambda d, t: d["model"].pop("rule"), "'rule' is missing"),
        (lambda d, t: d["model"].update(hidden_features=7), r"encoder_weight of shape \[7, 20\], got \[6, 20\]"),
        (lambda d, t: d["model"].update(hidden_features=10**15), "expected model.encoder_weight of shape"),
        (lambda d, t: d["model"].update(hidden_features="6"), "expected model.encoder_weight of shape"),
        (lambda d, t: d["model"].update(kind="other"), "kind as one of spiking, ann|is missing"),
        (lambda d, t: d["model"]["rule"].update(leak=2.0), "leak is outside its range"),
        (lambda d, t: d["model"]["rule"].update(unknown=1), "unknown settings unknown"),
        (lambda d, t: d["settings"].update(batch_size="ten"), "batch_size as an int"),
        (lambda d, t: d.update(batch=4), r"expected history\.\w+ of shape \[4\], got \[3\]"),
        (lambda d, t: d.update(model=None), "inconsistent"),
        (lambda d, t: t.update({"model.bias": torch.zeros(2)}), "bias"),
    ],
)
def test_inconsistent_content_is_named(
    change: Callable[[dict[str, Any], dict[str, torch.Tensor]], None], message: str, path: Path
) -> None:
    edited(path, change)
    with pytest.raises(CheckpointError, match=message) as caught:
        checkpoint.load(path)
    assert str(path) in str(caught.value)


def test_a_crash_while_writing_leaves_the_old_checkpoint(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    old = checkpoint.save(path, trainer(2)).read_bytes()
    for name in ("fsync", "replace"):

        def crash(*_: object) -> None:
            raise OSError(28, "No space left on device", "somewhere else")

        with monkeypatch.context() as patch:
            patch.setattr(os, name, crash)
            with pytest.raises(OSError, match="No space left") as caught:
                checkpoint.save(path, trainer(3))
            assert caught.value.filename == str(path), "the file that was asked for"
    assert path.read_bytes() == old
    assert list(path.parent.iterdir()) == [path], "no temporary file stays"
    assert checkpoint.load(path).batch == 2


def test_an_interrupt_while_writing_leaves_the_old_file(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    atomic_write.write_atomically(path, b"old")

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", interrupt)
        with pytest.raises(KeyboardInterrupt):
            atomic_write.write_atomically(path, b"new")
    assert path.read_bytes() == b"old"
    assert list(path.parent.iterdir()) == [path]


def test_what_json_cannot_hold_is_refused(path: Path) -> None:
    with pytest.raises(TypeError):
        checkpoint.save(path, trainer(), {"folder": path})
    with pytest.raises(ValueError, match="JSON"):
        checkpoint.save(path, trainer(), {"rate": float("nan")})
    assert not path.exists()
