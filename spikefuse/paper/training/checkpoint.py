"""Checkpoints of training runs: one safetensors file each, so that there is no torn state to be in.

Tensors are the model's weights, the artificial network's optimizer state, and the history (fp64). The file's metadata
holds one JSON document under the key "spikefuse": format, version, model, settings, progress, versions of the software,
and a SHA-256 over all of it. A file is written under another name, brought to disk and renamed. Nothing is pickled:
loading a checkpoint runs no code from it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor

from spikefuse._io import safetensors_file
from spikefuse._io.provenance import versions
from spikefuse._io.safetensors_file import SUFFIX, CheckpointError
from spikefuse.data import Pairs
from spikefuse.paper.models.ann import ANNAutoencoder
from spikefuse.paper.models.audio_to_image import ANNAudioToImage, AudioToImage
from spikefuse.paper.models.autoencoder import SpikingAutoencoder
from spikefuse.paper.training import audio_to_image
from spikefuse.paper.training.audio_to_image import SynthesisModel, SynthesisTrainer
from spikefuse.paper.training.autoencoder import ANN_COLUMNS, SPIKING_COLUMNS, Autoencoder, Trainer
from spikefuse.paper.training.loop import TrainSettings

__all__ = [
    "SUFFIX",
    "Checkpoint",
    "CheckpointError",
    "SynthesisCheckpoint",
    "load",
    "load_audio_to_image",
    "save",
    "save_audio_to_image",
]

FORMAT: Final = "spikefuse-autoencoder"
VERSION: Final = 1


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    """Contents of a checkpoint.

    Attributes:
        model: with its trained weights.
        settings: of the training.
        batch: batches done.
        history: see :class:`spikefuse.paper.training.autoencoder.Trainer`.
        samples: training images.
        images_fingerprint: CRC-32 of the training images.
        seconds: spent training.
        run: what the caller of :func:`save` added, such as the name of the data set.
        versions: of the software that wrote it.
    """

    model: Autoencoder
    settings: TrainSettings
    batch: int
    history: dict[str, list[float]]
    samples: int
    images_fingerprint: int
    seconds: float
    run: dict[str, Any]
    versions: dict[str, str]

    def resume(self, images: Tensor, *, epochs: int | None = None) -> Trainer:
        """The run as it was, to go on with.

        With the same images, settings and torch it goes on bit for bit as if it had never stopped.

        Args:
            images: the training images of the run.
            epochs: a new number of epochs, to train longer; None leaves it.

        Raises:
            ValueError: other images than the run was on, or fewer epochs than it has done.
        """
        settings = self.settings if epochs is None else dataclasses.replace(self.settings, epochs=epochs)
        trainer = Trainer(self.model, images, settings)
        if len(images) != self.samples or trainer.images_fingerprint != self.images_fingerprint:
            raise ValueError(
                f"Checkpoint.resume: expected the {self.samples} images that the run was on, got {len(images)} others"
            )
        if self.batch > trainer.total_batches:
            least = -(-self.batch // trainer.batches_per_epoch)
            raise ValueError(
                f"Checkpoint.resume: expected epochs >= {least} for {self.batch} batches done, got {settings.epochs}"
            )
        trainer.batch = self.batch
        trainer.history = {name: list(values) for name, values in self.history.items()}
        trainer.seconds = self.seconds
        return trainer


def save(path: str | Path, trainer: Trainer, run: Mapping[str, Any] | None = None) -> Path:
    """Writes a run's whole state, atomically: at any moment ``path`` holds the old checkpoint or the new one.

    Args:
        path: usually ends in ".safetensors".
        trainer: the run.
        run: further plain values to keep, for JSON.

    Returns:
        ``path``.

    Raises:
        ImportError: safetensors is not installed.
        OSError: the file cannot be written; what was there is untouched.
        TypeError: ``run`` holds something that JSON cannot.

    Example:
        >>> import tempfile
        >>> from spikefuse.paper.models import preset
        >>> model = SpikingAutoencoder(64, 16, preset("shared", 64).rule)
        >>> images = torch.rand(40, 64)
        >>> trainer = Trainer(model, images, TrainSettings(batch_size=10))
        >>> trainer.run(until=3)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     resumed = load(save(Path(folder) / "run.safetensors", trainer)).resume(images)
        >>> resumed.batch, resumed.total_batches
        (3, 4)
    """
    tensors = {f"model.{name}": weight for name, weight in trainer.model.state_dict().items()}
    if isinstance(trainer.model, ANNAutoencoder):
        tensors.update({f"optimizer.{name}": value for name, value in trainer.model.optimizer_state().items()})
    tensors.update(
        {f"history.{name}": torch.tensor(values, dtype=torch.float64) for name, values in trainer.history.items()}
    )
    document: dict[str, Any] = {
        "format": FORMAT,
        "version": VERSION,
        "model": trainer.model.config(),
        "settings": dataclasses.asdict(trainer.settings),
        "batch": trainer.batch,
        "samples": len(trainer.images),
        "images_fingerprint": trainer.images_fingerprint,
        "seconds": trainer.seconds,
        "run": dict(run or {}),
        "versions": versions(),
    }
    return safetensors_file.write(path, document, tensors)


def load(path: str | Path) -> Checkpoint:
    """Reads a checkpoint, checked against its own SHA-256 and sizes.

    Args:
        path: written by :func:`save`.

    Raises:
        CheckpointError: no checkpoint, cut short, damaged, of another version, or inconsistent; the message says which.
        ImportError: safetensors is not installed.
        OSError: the file cannot be read.
    """
    path = Path(path)
    document, tensors = safetensors_file.read(path, FORMAT, VERSION)
    with safetensors_file.restoring(path):
        return _restore(document, tensors)


def _restore(document: dict[str, Any], tensors: dict[str, Tensor]) -> Checkpoint:
    config = document["model"]
    sizes = (config["hidden_features"], config["in_features"])
    expected: dict[str, tuple[int, ...]] = {"model.encoder_weight": sizes, "model.decoder_weight": sizes[::-1]}
    columns = SPIKING_COLUMNS if config["kind"] == SpikingAutoencoder.KIND else ANN_COLUMNS
    batch = document["batch"]
    expected.update({f"history.{name}": (batch,) for name in columns})
    missing = next((name for name in expected if name not in tensors), None)
    if missing is not None:
        raise ValueError(f"{missing} is missing")
    safetensors_file.check_shapes(tensors, expected)
    model = _model(config, tensors)
    return Checkpoint(
        model=model,
        settings=TrainSettings(**document["settings"]),
        batch=batch,
        history={name: tensors[f"history.{name}"].tolist() for name in columns},
        samples=document["samples"],
        images_fingerprint=document["images_fingerprint"],
        seconds=float(document["seconds"]),
        run=dict(document["run"]),
        versions=dict(document["versions"]),
    )


def _model(config: dict[str, Any], tensors: dict[str, Tensor]) -> Autoencoder:
    weights = safetensors_file.under("model.", tensors)
    model: Autoencoder
    if config["kind"] == SpikingAutoencoder.KIND:
        model = SpikingAutoencoder.from_config(config).to(weights["encoder_weight"].dtype)
    elif config["kind"] == ANNAutoencoder.KIND:
        model = ANNAutoencoder.from_config(config)
        model.load_optimizer_state_(safetensors_file.under("optimizer.", tensors))
    else:
        raise ValueError(f"model: expected kind as one of spiking, ann, got {config['kind']!r}")
    try:
        model.load_state_dict(weights)
    except RuntimeError as error:
        raise ValueError(str(error)) from error
    return model


AUDIO_TO_IMAGE_FORMAT: Final = "spikefuse-audio-to-image"
AUDIO_TO_IMAGE_VERSION: Final = 1


@dataclasses.dataclass(frozen=True)
class SynthesisCheckpoint:
    """Contents of a checkpoint; see :class:`Checkpoint`.

    Attributes:
        model: with its trained weights.
        settings: of the training.
        batch: batches done.
        history: per batch; see :class:`spikefuse.paper.training.audio_to_image.SynthesisTrainer`.
        measured: what was measured on the way.
        samples: training sounds.
        fingerprint: CRC-32 of the pairs.
        seconds: spent training.
        run: what the caller of :func:`save_audio_to_image` added.
        versions: of the software that wrote it.
    """

    model: SynthesisModel
    settings: TrainSettings
    batch: int
    history: dict[str, list[float]]
    measured: list[dict[str, Any]]
    samples: int
    fingerprint: int
    seconds: float
    run: dict[str, Any]
    versions: dict[str, str]

    def resume(self, pairs: Pairs, *, epochs: int | None = None) -> SynthesisTrainer:
        """The run as it was, to go on with: bit for bit, given the same pairs, settings and torch.

        Args:
            pairs: of the run.
            epochs: a new number of epochs, to train longer; None leaves it.

        Raises:
            ValueError: other pairs than the run was on, or fewer epochs than it has done.
        """
        settings = self.settings if epochs is None else dataclasses.replace(self.settings, epochs=epochs)
        trainer = SynthesisTrainer(self.model, pairs, settings)
        if len(pairs) != self.samples or pairs.fingerprint != self.fingerprint:
            raise ValueError(
                f"SynthesisCheckpoint.resume: expected the {self.samples} pairs of sound and image that the run was "
                f"on, got {len(pairs)} others"
            )
        if self.batch > trainer.total_batches:
            least = -(-self.batch // trainer.batches_per_epoch)
            raise ValueError(
                f"SynthesisCheckpoint.resume: expected epochs >= {least} for {self.batch} batches done, got "
                f"{settings.epochs}"
            )
        trainer.batch = self.batch
        trainer.history = {name: list(values) for name, values in self.history.items()}
        trainer.measured = [dict(entry) for entry in self.measured]
        trainer.seconds = self.seconds
        return trainer


def save_audio_to_image(path: str | Path, trainer: SynthesisTrainer, run: Mapping[str, Any] | None = None) -> Path:
    """Writes a run's whole state, atomically: at any moment ``path`` holds the old checkpoint or the new one.

    At the default size a file holds 480 MB, of the artificial network with Adam three times as much.

    Args:
        path: usually ends in ".safetensors".
        trainer: the run.
        run: further plain values to keep, for JSON.

    Returns:
        ``path``.

    Raises:
        ImportError: safetensors is not installed.
        OSError: the file cannot be written; what was there is untouched.
        TypeError: ``run`` holds something that JSON cannot.

    Example:
        >>> import tempfile
        >>> from spikefuse.paper.models import Audiocoder, SpikingAutoencoder, preset
        >>> from spikefuse.data import pair
        >>> model = AudioToImage(Audiocoder(20, 8, 6), SpikingAutoencoder(9, 6, preset("shared", 9).rule))
        >>> labels = torch.arange(10) % 2
        >>> pairs = pair("A", torch.rand(10, 20), labels, torch.rand(4, 9), torch.arange(4) % 2)
        >>> trainer = SynthesisTrainer(model, pairs, TrainSettings(batch_size=5, max_rate=0.02))
        >>> trainer.run(until=1)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     load_audio_to_image(save_audio_to_image(Path(folder) / "run.safetensors", trainer)).resume(pairs).batch
        1
    """
    model = trainer.model
    tensors = {f"model.{name}": weight for name, weight in model.state_dict().items()}
    if isinstance(model, ANNAudioToImage):
        tensors.update({f"optimizer.{name}": value for name, value in model.audiocoder.optimizer_state().items()})
    tensors.update(
        {f"history.{name}": torch.tensor(values, dtype=torch.float64) for name, values in trainer.history.items()}
    )
    document: dict[str, Any] = {
        "format": AUDIO_TO_IMAGE_FORMAT,
        "version": AUDIO_TO_IMAGE_VERSION,
        "model": model.config(),
        "settings": dataclasses.asdict(trainer.settings),
        "batch": trainer.batch,
        "measured": trainer.measured,
        "samples": len(trainer.pairs),
        "fingerprint": trainer.pairs.fingerprint,
        "seconds": trainer.seconds,
        "run": dict(run or {}),
        "versions": versions(),
    }
    return safetensors_file.write(path, document, tensors)


def load_audio_to_image(path: str | Path) -> SynthesisCheckpoint:
    """Reads a checkpoint, checked against its own SHA-256 and sizes.

    Args:
        path: written by :func:`save_audio_to_image`.

    Raises:
        CheckpointError: no checkpoint, cut short, damaged, of another version, or inconsistent; the message says which.
        ImportError: safetensors is not installed.
        OSError: the file cannot be read.
    """
    path = Path(path)
    document, tensors = safetensors_file.read(path, AUDIO_TO_IMAGE_FORMAT, AUDIO_TO_IMAGE_VERSION)
    with safetensors_file.restoring(path):
        return _restore_audio_to_image(document, tensors)


def _restore_audio_to_image(document: dict[str, Any], tensors: dict[str, Tensor]) -> SynthesisCheckpoint:
    config, batch = document["model"], document["batch"]
    spiking = config["kind"] == AudioToImage.KIND
    if not spiking and config["kind"] != ANNAudioToImage.KIND:
        kinds = f"{AudioToImage.KIND}, {ANNAudioToImage.KIND}"
        raise ValueError(f"model: expected kind as one of {kinds}, got {config['kind']!r}")
    coder = config["audiocoder"]
    sizes = {
        f"model.audiocoder.{'first' if spiking else 'encoder'}_weight": (
            coder["hidden_features"],
            coder["in_features"],
        ),
        f"model.audiocoder.{'second' if spiking else 'decoder'}_weight": (
            coder["out_features"],
            coder["hidden_features"],
        ),
    }
    columns = audio_to_image.SPIKING_COLUMNS if spiking else audio_to_image.ANN_COLUMNS
    shapes = {**sizes, **{f"history.{name}": (batch,) for name in columns}}
    safetensors_file.check_shapes(tensors, shapes)
    return SynthesisCheckpoint(
        model=_audio_to_image_model(config, tensors),
        settings=TrainSettings(**document["settings"]),
        batch=batch,
        history={name: tensors[f"history.{name}"].tolist() for name in columns},
        measured=list(document["measured"]),
        samples=document["samples"],
        fingerprint=document["fingerprint"],
        seconds=float(document["seconds"]),
        run=dict(document["run"]),
        versions=dict(document["versions"]),
    )


def _audio_to_image_model(config: dict[str, Any], tensors: dict[str, Tensor]) -> SynthesisModel:
    model: SynthesisModel
    if config["kind"] == AudioToImage.KIND:
        model = AudioToImage.from_config(config)
    else:
        model = ANNAudioToImage.from_config(config)
        model.audiocoder.load_optimizer_state_(safetensors_file.under("optimizer.", tensors))
    try:
        model.load_state_dict(safetensors_file.under("model.", tensors))
    except RuntimeError as error:
        raise ValueError(str(error)) from error
    return model
