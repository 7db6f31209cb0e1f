"""A training run of a net that makes images of sound, with its folder, and what a trained one is asked to do."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import torch
from rich.console import Console
from rich.table import Table

from spikefuse import data, ops
from spikefuse._io import folders
from spikefuse._io.atomic_write import write_atomically
from spikefuse._io.provenance import provenance
from spikefuse.audio import corpora
from spikefuse.data import Pairs, pair, read_audio
from spikefuse.paper.models import digit_classifier
from spikefuse.paper.models.audio_to_image import AudioToImage
from spikefuse.paper.models.audiocoder import Audiocoder, audiocoder_preset
from spikefuse.paper.models.autoencoder import SpikingAutoencoder
from spikefuse.paper.plots import charts, pictures
from spikefuse.paper.seeds import derived_seed
from spikefuse.paper.training import autoencoder_runs, checkpoint, recipes
from spikefuse.paper.training import progress as report
from spikefuse.paper.training.audio_to_image import (
    Baselines,
    SynthesisModel,
    SynthesisTrainer,
    baselines,
    evaluate,
    synthesize,
)
from spikefuse.paper.training.loop import STREAMS, TrainSettings

CHECKPOINT: Final = autoencoder_runs.CHECKPOINT
FOLDER: Final = Path("runs/audio-to-image")
COMMAND: Final = "spikefuse train audio-to-image"

SMALL_HIDDEN: Final = 1024
"""Below as many hidden neurons the paper's learning rate is too low to learn in a few epochs."""


@dataclasses.dataclass(frozen=True)
class SynthesisOptions:
    """Options of a run; None takes the default."""

    autoencoder: Path | None = None
    corpus: str | None = None
    folder: Path | None = None
    dataset: str | None = None
    limit: int | None = None
    hidden: int | None = None
    th: int | None = None
    steps: int | None = None
    rate: float | None = None
    image_rate: float | None = None
    trace: str | None = None
    lr: float | None = None
    leak: float | None = None
    weight_decay: float | None = None
    epochs: int | None = None
    batch_size: int | None = None
    seed: int | None = None


@dataclasses.dataclass(frozen=True, eq=False)
class Material:
    """Training and test data of a run."""

    heard: corpora.Sounds
    pairs: Pairs
    floor: Baselines


def train(
    options: SynthesisOptions, out: Path, *, resume: bool, overwrite: bool, save_every: int | None, console: Console
) -> int | None:
    """Trains, or goes on training, measures after every epoch, and fills the run's folder.

    Returns:
        The number of the signal that ended it (Ctrl-C or SIGTERM), its checkpoint saved; None where nothing did.

    Raises:
        ValueError, OSError, ImportError, FloatingPointError: see :mod:`spikefuse.paper.training.audio_to_image` and the
            other modules.
    """
    path = out / CHECKPOINT
    if not (resume or overwrite) and folders.exists(path):
        raise ValueError(
            f"{path} is there already: --resume goes on with it, --overwrite begins anew, or --out another"
        )
    if resume and not folders.exists(path):
        raise ValueError(f"--resume: {path} is not there; --out names the folder of a run")
    kept = checkpoint.load_audio_to_image(path) if resume else None
    if kept is not None:
        recipes.check_unchanged(options, _options_of(kept))
        run = dict(kept.run)
    else:
        run = _new_run(options)
        if options.autoencoder is None:
            ended = _train_autoencoder(options, out, console)
            if ended is not None:
                return ended
    with console.status("Hearing the recordings (about a minute the first time) ..."):
        material = _material(run)
    if kept is not None:
        trainer = kept.resume(material.pairs, epochs=options.epochs)
        console.print(f"Resumed after batch {trainer.batch} of {trainer.total_batches}.")
    else:
        trainer = _started(options, out, material)
    console.print(_heading(trainer, run), soft_wrap=True)
    console.print(
        f"Test MSE of the mean training image {material.floor.mean_image:.3f}, of a random class's image "
        f"{material.floor.random_class:.3f}.",
        soft_wrap=True,
    )
    reader = _reader(trainer, material)

    with autoencoder_runs.signals() as received, report.training_progress(console, trainer, "recordings") as progress:

        def on_batch(trainer: SynthesisTrainer) -> None:
            progress(trainer)
            if trainer.batch % trainer.batches_per_epoch == 0:
                measured = _measure(trainer, material, reader)
                trainer.measured.append(measured)
                read = "" if measured["recognised"] is None else f", read as what was said {measured['recognised']:.1%}"
                console.print(f"after epoch {measured['epoch']}: test MSE {measured['mse']:.3f}{read}")

        trainer.run(
            on_batch=on_batch,
            should_stop=lambda: bool(received),
            save=lambda trainer: checkpoint.save_audio_to_image(path, trainer, run),
            save_every=save_every or trainer.batches_per_epoch,
        )
    if received:
        console.print(f"Stopped after batch {trainer.batch} of {trainer.total_batches}. Go on with:")
        console.print(f"  {COMMAND} --out {out} --resume", soft_wrap=True, highlight=False)
        return received[0]
    written = [path, *_results(out, trainer, material, run, reader, console)]
    console.print(f"Trained {trainer.batch} batches in {trainer.seconds:.1f} s.")
    console.print("Wrote " + ", ".join(str(file) for file in written), soft_wrap=True, highlight=False)
    return None


def synthesize_files(
    files: Sequence[Path], model_path: Path, output: Path, *, seed: int | None, read: bool, console: Console
) -> Path:
    """Draws what a trained net makes of sound files, one column each.

    Raises:
        ValueError, OSError, ImportError: no trained net, one of artificial neurons, or sound that is refused.
    """
    path = autoencoder_runs.checkpoint_path(model_path)
    if not folders.exists(path):
        raise ValueError(
            f"--model: expected a trained net at {path}, got none there; `{COMMAND} --out {model_path}` trains one"
        )
    kept = checkpoint.load_audio_to_image(path)
    model = kept.model
    ear = corpora.cochleagram()
    if ear.features != model.in_features:
        raise ValueError(f"--model: expected a net of {ear.features} inputs, got one of {model.in_features}")
    rates = torch.stack([ear(*read_audio(file)) for file in files])
    settings = kept.settings if seed is None else dataclasses.replace(kept.settings, seed=seed)
    result = synthesize(model, rates, settings, STREAMS["pictures"])
    titles = [file.stem for file in files]
    if read:
        titles = [
            f"{title}: {digit}"
            for title, digit in zip(titles, digit_classifier.recogniser()(result.images).tolist(), strict=True)
        ]
        console.print("Read as " + ", ".join(titles))
    return pictures.save_maps(
        output,
        [
            ("hidden spikes", result.code, pictures.near_square(result.code.shape[1])),
            ("image", result.images, pictures.near_square(model.image_features)),
        ],
        titles=titles,
        heading=f"heard, {settings.steps} steps" if isinstance(model, AudioToImage) else "heard",
    )


def _new_run(options: SynthesisOptions) -> dict[str, Any]:
    """The options that choose a run's sounds and images."""
    corpus = options.corpus or "fsdd"
    images = "mnist" if options.autoencoder is None else autoencoder_runs.dataset_of(_autoencoder(options.autoencoder))
    return {
        "corpus": corpus,
        "folder": None if options.folder is None else str(options.folder),
        "dataset": options.dataset or "A",
        "limit": options.limit,
        "images": images,
    }


def _material(run: Mapping[str, Any]) -> Material:
    folder = None if run["folder"] is None else Path(run["folder"])
    heard = corpora.hear(run["corpus"], folder, run["limit"])
    images = data.load(run["images"], "train")
    pairs = pair(run["dataset"], heard.train_rates, heard.train_labels, images.images, images.labels)
    return Material(heard, pairs, baselines(heard.test_labels, pairs))


def _autoencoder(path: Path) -> checkpoint.Checkpoint:
    kept = checkpoint.load(autoencoder_runs.checkpoint_path(path))
    if not isinstance(kept.model, SpikingAutoencoder):
        raise ValueError(f"--autoencoder: expected a spiking autoencoder in {path}, got an artificial one")
    return kept


def _train_autoencoder(options: SynthesisOptions, out: Path, console: Console) -> int | None:
    """An autoencoder of MNIST in the run's folder, where none is there or a run was to begin anew."""
    console.print("The autoencoder of MNIST first, whose hidden spikes are what the audiocoder learns to emit.")
    asked = recipes.Options(dataset="mnist", trace=options.trace, rate=options.image_rate, seed=options.seed)
    return autoencoder_runs.train(
        asked, out / "autoencoder", resume=False, overwrite=True, save_every=100, console=console
    )


def _started(options: SynthesisOptions, out: Path, material: Material) -> SynthesisTrainer:
    kept = _autoencoder(options.autoencoder or out / "autoencoder")
    assert isinstance(kept.model, SpikingAutoencoder)
    given = recipes.given
    chosen = audiocoder_preset(options.trace or "shared")
    hidden = given(options.hidden, 2048)
    asked: dict[str, Any] = {
        "lr": given(options.lr, chosen.rule.lr if hidden >= SMALL_HIDDEN else 10 * chosen.rule.lr),
        "leak": options.leak,
        "weight_decay": options.weight_decay,
    }
    rule = dataclasses.replace(chosen.rule, **{name: value for name, value in asked.items() if value is not None})
    settings = TrainSettings(
        epochs=given(options.epochs, 20),
        batch_size=given(options.batch_size, 50),
        steps=given(options.steps, 60),
        max_rate=given(options.rate, chosen.max_rate),
        seed=given(options.seed, 0),
    )
    generator = torch.Generator().manual_seed(derived_seed(settings.seed, "audiocoder weights"))
    coder = Audiocoder(
        material.pairs.rates.shape[1],
        hidden,
        kept.model.hidden_features,
        rule,
        init_bound=chosen.init_bound or 0.01,
        generator=generator,
    )
    image_rate = given(options.image_rate, kept.settings.max_rate)
    model = AudioToImage(coder, kept.model, duration=given(options.th, 10), image_rate=image_rate)
    return SynthesisTrainer(model, material.pairs, settings)


def _options_of(kept: checkpoint.SynthesisCheckpoint) -> SynthesisOptions:
    """The options that a run has, all filled in but for the autoencoder's, which is part of it now."""
    model, settings, run = kept.model, kept.settings, kept.run
    if not isinstance(model, AudioToImage):
        raise ValueError("--resume: expected a spiking net, got an artificial one")
    rule = model.audiocoder.rule
    return SynthesisOptions(
        corpus=run["corpus"],
        folder=None if run["folder"] is None else Path(run["folder"]),
        dataset=run["dataset"],
        limit=run["limit"],
        hidden=model.audiocoder.hidden_features,
        th=model.duration,
        steps=settings.steps,
        rate=settings.max_rate,
        image_rate=model.image_rate,
        trace=rule.trace,
        lr=rule.lr,
        leak=rule.leak,
        weight_decay=rule.weight_decay,
        batch_size=settings.batch_size,
        seed=settings.seed,
    )


def _reader(trainer: SynthesisTrainer, material: Material) -> digit_classifier.Recogniser | None:
    """The classifier of the images, if images and sounds are digits."""
    if trainer.model.image_features != 784 or material.heard.classes != tuple("0123456789"):
        return None
    return digit_classifier.recogniser()


def _measure(
    trainer: SynthesisTrainer, material: Material, reader: digit_classifier.Recogniser | None
) -> dict[str, Any]:
    heard = material.heard
    result = evaluate(
        trainer.model, heard.test_rates, heard.test_labels, material.pairs, trainer.settings, recognise=reader
    )
    return {"epoch": trainer.batch // trainer.batches_per_epoch, **dataclasses.asdict(result)}


def _results(
    out: Path,
    trainer: SynthesisTrainer,
    material: Material,
    run: Mapping[str, Any],
    reader: digit_classifier.Recogniser | None,
    console: Console,
) -> list[Path]:
    """Writes and shows what a finished run has come to."""
    final = trainer.measured[-1] if trainer.measured else _measure(trainer, material, reader)
    document = {
        "run": dict(run),
        "model": trainer.model.config(),
        "settings": dataclasses.asdict(trainer.settings),
        "provenance": provenance(ops.cpu_instruction_set()),
        "results": {"test": final, "baselines": dataclasses.asdict(material.floor)},
        "training": {
            "batches": trainer.batch,
            "seconds": trainer.seconds,
            "epochs": trainer.measured,
            "history": trainer.history,
        },
    }
    written = [write_atomically(out / autoencoder_runs.METRICS, (json.dumps(document, indent=2) + "\n").encode())]
    if trainer.measured:
        epochs = [entry["epoch"] for entry in trainer.measured]
        floor = material.floor
        series = [charts.Line("test recordings", epochs, [[entry["mse"] for entry in trainer.measured]])]
        for label, value in (("mean training image", floor.mean_image), ("random class", floor.random_class)):
            series.append(charts.Line(label, epochs, [[value] * len(epochs)], reference=True))
        heading = f"Data set {run['dataset']}, {run['corpus']}: images of sound"
        chart = charts.lines(series, x="epoch", y="test MSE (1 = silent net)", heading=heading)
        written.append(write_atomically(out / "mse.png", chart))
    heading = f"Data set {run['dataset']}, test recordings of {run['corpus']}"
    heard, pairs = material.heard, material.pairs
    written.append(picture(out / "images.png", trainer.model, trainer.settings, heard, pairs, heading))
    table = Table()
    table.add_column("")
    table.add_column("test", justify="right")
    table.add_row("recordings", f"{final['samples']:,}")
    table.add_row("MSE", f"{final['mse']:.3f}")
    table.add_row("MSE of the mean training image", f"{material.floor.mean_image:.3f}")
    table.add_row("MSE of a random class's image", f"{material.floor.random_class:.3f}")
    if final["recognised"] is not None:
        table.add_row("read as the digit that was said", f"{final['recognised']:.1%}")
    console.print(table)
    return written


def picture(
    path: Path, model: SynthesisModel, settings: TrainSettings, heard: corpora.Sounds, pairs: Pairs, heading: str
) -> Path:
    """Writes a PNG of one test recording of each class: the image of its class, what is emitted, and what is heard."""
    chosen = autoencoder_runs.of_every_class(heard.test_labels, 10)
    labels = heard.test_labels[chosen].tolist()
    result = synthesize(model, heard.test_rates[chosen], settings, STREAMS["pictures"])
    firsts = [int((pairs.image_labels == label).nonzero()[0]) for label in labels]
    shape = pictures.near_square(model.image_features)
    return pictures.save_maps(
        path,
        [
            ("image of the class", pairs.images[firsts], shape),
            ("hidden layer", result.code, pictures.near_square(result.code.shape[1])),
            ("image heard", result.images, shape),
        ],
        titles=[heard.classes[label] for label in labels],
        heading=heading,
    )


def _heading(trainer: SynthesisTrainer, run: Mapping[str, Any]) -> str:
    model, settings = trainer.model, trainer.settings
    assert isinstance(model, AudioToImage)
    coder = model.audiocoder
    sizes = f"{coder.in_features}-{coder.hidden_features}-{coder.out_features}-{model.image_features}"
    return (
        f"Data set {run['dataset']}, {len(trainer.pairs):,} recordings of {run['corpus']}: {sizes}, "
        f"{coder.rule.trace} trace, Th {model.duration}, {settings.steps} steps, rate {settings.max_rate:g}, "
        f"leak {coder.rule.leak:g}, lr {coder.rule.lr:g}, batches of {settings.batch_size}, seed {settings.seed}"
    )
