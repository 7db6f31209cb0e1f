"""Checkpoints of nets that make images of sound: the whole net, and where its training stands, in one file.

The file is that of :mod:`spikefuse._io.safetensors_file`, and what is said in
:mod:`spikefuse.paper.training.checkpoint` holds here too.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor

from spikefuse._io import provenance, safetensors_file
from spikefuse.paper.models.audio_to_image import ANNAudioToImage, AudioToImage
from spikefuse.paper.training.audio_to_image import (
    ANN_COLUMNS,
    SPIKING_COLUMNS,
    Pairs,
    SynthesisModel,
    SynthesisTrainer,
)
from spikefuse.paper.training.loop import TrainSettings

FORMAT: Final = "spikefuse-audio-to-image"
VERSION: Final = 1


@dataclasses.dataclass(frozen=True)
class SynthesisCheckpoint:
    """What a checkpoint holds; see :class:`spikefuse.paper.training.checkpoint.Checkpoint`.

    Attributes:
        model: with its trained weights.
        settings: of the training.
        batch: batches done.
        history: per batch; see :class:`spikefuse.paper.training.audio_to_image.SynthesisTrainer`.
        measured: what was measured on the way.
        samples: training sounds.
        fingerprint: CRC-32 of the pairs.
        seconds: spent training.
        run: what the caller of :func:`save` added.
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


def save(path: str | Path, trainer: SynthesisTrainer, run: Mapping[str, Any] | None = None) -> Path:
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
        >>> from spikefuse.paper.training.audio_to_image import pair
        >>> model = AudioToImage(Audiocoder(20, 8, 6), SpikingAutoencoder(9, 6, preset("shared", 9).rule))
        >>> labels = torch.arange(10) % 2
        >>> pairs = pair("A", torch.rand(10, 20), labels, torch.rand(4, 9), torch.arange(4) % 2)
        >>> trainer = SynthesisTrainer(model, pairs, TrainSettings(batch_size=5, max_rate=0.02))
        >>> trainer.run(until=1)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     load(save(Path(folder) / "run.safetensors", trainer)).resume(pairs).batch
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
        "format": FORMAT,
        "version": VERSION,
        "model": model.config(),
        "settings": dataclasses.asdict(trainer.settings),
        "batch": trainer.batch,
        "measured": trainer.measured,
        "samples": len(trainer.pairs),
        "fingerprint": trainer.pairs.fingerprint,
        "seconds": trainer.seconds,
        "run": dict(run or {}),
        "versions": provenance.versions(),
    }
    return safetensors_file.write(path, document, tensors)


def load(path: str | Path) -> SynthesisCheckpoint:
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


def _restore(document: dict[str, Any], tensors: dict[str, Tensor]) -> SynthesisCheckpoint:
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
    columns = SPIKING_COLUMNS if spiking else ANN_COLUMNS
    shapes = {**sizes, **{f"history.{name}": (batch,) for name in columns}}
    safetensors_file.check_shapes(tensors, shapes)
    return SynthesisCheckpoint(
        model=_model(config, tensors),
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


def _model(config: dict[str, Any], tensors: dict[str, Tensor]) -> SynthesisModel:
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
