"""A training run with its folder: checkpoint, metrics, pictures."""

from __future__ import annotations

import dataclasses
import json
import signal
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any, Final

import torch
from rich.console import Console
from torch import Tensor

from spikefuse import data, ops
from spikefuse._io import folders
from spikefuse._io.atomic_write import write_atomically
from spikefuse._io.provenance import provenance
from spikefuse.paper.models.autoencoder import SpikingAutoencoder
from spikefuse.paper.plots import pictures
from spikefuse.paper.training import checkpoint, progress, recipes
from spikefuse.paper.training.autoencoder import Autoencoder, Evaluation, Trainer, evaluate, reconstruct
from spikefuse.paper.training.loop import STREAMS, TrainSettings
from spikefuse.paper.training.recipes import Options

CHECKPOINT: Final = "checkpoint" + checkpoint.SUFFIX
METRICS: Final = "metrics.json"

EVALUATION_IMAGES: Final = 10_000
"""Training images that a run is measured on at its end: as many as MNIST has to test with."""

_TITLES: Final = {"mnist": "MNIST", "fashion-mnist": "Fashion-MNIST", "digits": "digits"}


def train(
    options: Options, folder: Path | None, *, resume: bool, overwrite: bool, save_every: int, console: Console
) -> int | None:
    """Trains, or goes on training, and fills the run's folder.

    Returns:
        The number of the signal that ended it (Ctrl-C or SIGTERM), its checkpoint saved; None where nothing did.

    Raises:
        ValueError, OSError, ImportError, FloatingPointError: see :mod:`spikefuse.paper.training.autoencoder` and the
            other modules.
    """
    if folder is None or not resume:
        name, note = recipes.find_dataset(options.dataset or "auto")
        options = dataclasses.replace(options, dataset=name)
        folder = folder or Path("runs") / f"{name}-{recipes.ANN if options.ann else options.trace or 'shared'}"
        if note:
            console.print(note, soft_wrap=True)
    path = folder / CHECKPOINT
    if not (resume or overwrite) and folders.exists(path):
        raise ValueError(
            f"{path} is there already: --resume goes on with it, --overwrite begins anew, or --out another"
        )
    trainer, run = _resumed(path, options, console) if resume else _started(options)
    console.print(_heading(trainer, run), soft_wrap=True)

    def save(trainer: Trainer) -> None:
        checkpoint.save(path, trainer, run)

    with signals() as received, progress.training_progress(console, trainer) as on_batch:
        trainer.run(on_batch=on_batch, should_stop=lambda: bool(received), save=save, save_every=save_every)
    if received:
        console.print(f"Stopped after batch {trainer.batch} of {trainer.total_batches}. Go on with:")
        console.print(f"  spikefuse train autoencoder --out {folder} --resume", soft_wrap=True, highlight=False)
        return received[0]

    test = data.load(run["dataset"], "test")
    with console.status("Measuring ..."):
        results = {
            "train": evaluate(trainer.model, trainer.images[:EVALUATION_IMAGES], trainer.settings, "train"),
            "test": evaluate(trainer.model, test.images, trainer.settings, "test"),
        }
        written = [path, write_metrics(folder / METRICS, trainer.model, trainer.settings, run, results, trainer)]
        if trainer.batch:
            written.append(_loss_picture(folder / "loss.png", trainer, run))
        written.append(picture(folder / "reconstructions.png", trainer.model, trainer.settings, test))
        written.append(pictures.save_filters(folder / "filters.png", trainer.model.encoder_weight, test.image_shape))
    console.print(progress.results_table(results))
    console.print(f"Trained {trainer.batch} batches in {trainer.seconds:.1f} s.")
    console.print("Wrote " + ", ".join(str(file) for file in written), soft_wrap=True, highlight=False)
    return None


def checkpoint_path(path: Path) -> Path:
    """The checkpoint of a run's folder, or the file itself.

    Raises:
        OSError: a folder on the way may not be entered, or a link leads to a path that does not exist.
    """
    return path / CHECKPOINT if folders.is_folder(path) else path


def dataset_of(kept: checkpoint.Checkpoint) -> str:
    """The data set that a checkpoint was trained on.

    Raises:
        ValueError: it was not written by the command line, and names none.
    """
    name = kept.run.get("dataset")
    if name not in data.DATASETS:
        raise ValueError(f"--dataset: the checkpoint names no data set of {', '.join(data.DATASETS)}, but {name!r}")
    return str(name)


def load_split(kept: checkpoint.Checkpoint, dataset: str | None, split: str) -> data.Dataset:
    """A split of the data set that a checkpoint was trained on, or of another one of the same size.

    Raises:
        ValueError: images of another size.
    """
    loaded = data.load(dataset or dataset_of(kept), split)
    if loaded.images.shape[1] != kept.model.in_features:
        raise ValueError(
            f"--dataset: expected images of {kept.model.in_features} pixels, which the checkpoint takes, got "
            f"{loaded.name} with {loaded.images.shape[1]}"
        )
    return loaded


def write_metrics(
    path: Path,
    model: Autoencoder,
    settings: TrainSettings,
    run: Mapping[str, Any],
    results: Mapping[str, Evaluation],
    trainer: Trainer | None = None,
) -> Path:
    """Writes what was measured, and all that it takes to measure it again, as JSON."""
    document: dict[str, Any] = {
        "run": dict(run),
        "model": model.config(),
        "settings": dataclasses.asdict(settings),
        "provenance": provenance(ops.cpu_instruction_set()),
        "results": {split: dataclasses.asdict(evaluation) for split, evaluation in results.items()},
    }
    if trainer is not None:
        document["training"] = {"batches": trainer.batch, "seconds": trainer.seconds, "history": trainer.history}
    return write_atomically(path, (json.dumps(document, indent=2) + "\n").encode())


def picture(path: Path, model: Autoencoder, settings: TrainSettings, dataset: data.Dataset, count: int = 10) -> Path:
    """Writes a PNG of images of all classes in turn: what the model is given, its hidden layer and its output."""
    chosen = of_every_class(dataset.labels, count)
    images, labels, shape = dataset.images[chosen], dataset.labels[chosen], dataset.image_shape
    hidden_shape = pictures.near_square(model.hidden_features)
    rows: list[tuple[str, Tensor, tuple[int, int]]] = [("image", images, shape)]
    if isinstance(model, SpikingAutoencoder):
        result = reconstruct(model, images, settings, STREAMS["pictures"])
        rows += [
            ("input spikes", result.input_counts, shape),
            ("hidden spikes", result.hidden_counts, hidden_shape),
            ("output spikes", result.output_counts, shape),
        ]
        subject = f"spikes summed over {settings.steps} steps"
    else:
        with torch.no_grad():
            hidden = model.encode(images)
            rows += [("hidden layer", hidden, hidden_shape), ("output", model.decode(hidden), shape)]
        subject = "artificial network"
    heading = f"{_TITLES[dataset.name]}, {dataset.split} images: {subject}"
    return pictures.save_maps(path, rows, titles=[str(label) for label in labels.tolist()], heading=heading)


def _started(options: Options) -> tuple[Trainer, dict[str, Any]]:
    training = data.load(options.dataset or "", "train")
    images = training.images[: options.limit]
    model, settings = recipes.build(options, training.name, images.shape[1])
    return Trainer(model, images, settings), {"dataset": training.name, "limit": options.limit}


def _resumed(path: Path, options: Options, console: Console) -> tuple[Trainer, dict[str, Any]]:
    if not folders.exists(path):
        raise ValueError(f"--resume: {path} is not there; --out names the folder of a run")
    kept = checkpoint.load(path)
    dataset, limit = dataset_of(kept), kept.run.get("limit")
    recipes.check_unchanged(options, recipes.options_of(kept.model, kept.settings, dataset, limit))
    trainer = kept.resume(data.load(dataset, "train").images[:limit], epochs=options.epochs)
    console.print(f"Resumed after batch {trainer.batch} of {trainer.total_batches}.")
    if kept.versions.get("torch") != torch.__version__:
        console.print(
            f"The checkpoint is of torch {kept.versions.get('torch')}: under {torch.__version__} the rest of the run "
            "may differ from what it would have been.",
            soft_wrap=True,
        )
    return trainer, kept.run


def _heading(trainer: Trainer, run: Mapping[str, Any]) -> str:
    model, settings = trainer.model, trainer.settings
    sizes = f"{model.in_features}-{model.hidden_features}-{model.in_features}"
    if isinstance(model, SpikingAutoencoder):
        method = (
            f"spiking autoencoder {sizes}, {model.rule.trace} trace, {settings.steps} steps, "
            f"rate {settings.max_rate:g}, leak {model.rule.leak:g}"
        )
    else:
        method = f"artificial autoencoder {sizes}"
    return (
        f"{_TITLES[run['dataset']]}, {len(trainer.images):,} images: {method}, {model.rule.optimizer}, "
        f"lr {model.rule.lr:g}, batches of {settings.batch_size}, seed {settings.seed}"
    )


def _loss_picture(path: Path, trainer: Trainer, run: Mapping[str, Any]) -> Path:
    spiking = isinstance(trainer.model, SpikingAutoencoder)
    return pictures.save_loss_curve(
        path,
        trainer.history[trainer.columns[0]],
        name="Spike-MSE" if spiking else "MSE",
        batches_per_epoch=trainer.batches_per_epoch,
        heading=f"{_TITLES[run['dataset']]}: error of each training batch",
    )


def of_every_class(labels: Tensor, count: int) -> Tensor:
    """Indices of the first image of every class, then of the second, and so on: ``[min(count, N)]``."""
    seen: dict[int, int] = {}
    keys = []
    for index, label in enumerate(labels.tolist()):
        seen[label] = seen.get(label, -1) + 1
        keys.append((seen[label], label, index))
    return torch.tensor([index for _, _, index in sorted(keys)[:count]])


@contextmanager
def signals() -> Iterator[list[int]]:
    """The signals that came to end the process, which may first finish the batch at hand; a second does not wait."""
    received: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield received
        return

    def note(number: int, frame: FrameType | None) -> None:
        if received:
            raise KeyboardInterrupt
        received.append(number)

    previous = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield received
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
