"""Runs one job and measures what it gave, in one schema for all of them."""

from __future__ import annotations

import dataclasses
import errno
import functools
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import torch

from spikefuse import data, ops, reference
from spikefuse._io import folders
from spikefuse._io.provenance import provenance
from spikefuse.audio import corpora
from spikefuse.online import OnlineStats
from spikefuse.packed import PackedSpikes
from spikefuse.paper.experiments.jobs import ImageJob, Job, SoundJob
from spikefuse.paper.models import digit_classifier
from spikefuse.paper.models.ann import ANNAudiocoder, ANNAutoencoder, ANNRule
from spikefuse.paper.models.audio_to_image import ANNAudioToImage, AudioToImage
from spikefuse.paper.models.audiocoder import Audiocoder, audiocoder_preset
from spikefuse.paper.models.autoencoder import SpikingAutoencoder, preset
from spikefuse.paper.seeds import derived_seed, weight_generator
from spikefuse.paper.training import audio_to_image, audio_to_image_runs, autoencoder_runs, checkpoint
from spikefuse.paper.training import autoencoder as training
from spikefuse.paper.training.audio_to_image import SynthesisTrainer
from spikefuse.paper.training.autoencoder import Trainer
from spikefuse.paper.training.loop import BatchRun, TrainSettings

SCHEMA: Final = 1
"""Version of a result's layout."""

Tick = Callable[[float], bool]
"""Told the share of a job that is done; answers whether to stop."""


class InterruptedJobError(Exception):
    """A job was told to stop; what it needs to go on is kept.

    >>> issubclass(InterruptedJobError, Exception)
    True
    """


class UnmaskedAutoencoder(SpikingAutoencoder):
    """A spiking autoencoder that corrects every output neuron, not those alone that spiked wrongly (no eq 6).

    The compiled rule has a mask always: this one runs in the plain PyTorch of :mod:`spikefuse.reference`.

    Example:
        >>> model = UnmaskedAutoencoder(6, 4, preset("shared", 6).rule)
        >>> model.learn_(torch.ones(3, 2, 6)).steps
        3
    """

    def learn_(
        self, inputs: PackedSpikes | torch.Tensor, targets: PackedSpikes | torch.Tensor | None = None
    ) -> OnlineStats:
        """As :meth:`SpikingAutoencoder.learn_`, without the mask."""
        x, y = (
            spikes.unpack(self.encoder_weight.dtype) if isinstance(spikes, PackedSpikes) else spikes
            for spikes in (inputs, inputs if targets is None else targets)
        )
        with torch.no_grad():
            weights, loss, counts, zeros = reference.online_step(self.weights, x, y, self.rule, masked=False)
            for weight, learned in zip(self.weights, weights, strict=True):
                weight.copy_(learned)
        if not all(bool(torch.isfinite(weight).all()) for weight in weights):
            raise FloatingPointError(f"UnmaskedAutoencoder: the weights became NaN or infinite at lr = {self.rule.lr}")
        return OnlineStats(loss, counts, zeros, len(x))


def run(job: Job, folder: Path, tick: Tick) -> dict[str, Any]:
    """Runs a job to its end, from where an earlier call left it.

    Args:
        job: what to run. The files of the autoencoder that a sound job builds on are in ``folder``.
        folder: of the jobs' files.
        tick: called after every batch.

    Returns:
        The result: schema, kind, settings, seed, provenance, seconds, "results" and "curves", plain values for JSON;
        where the training diverged these are empty, and "diverged" says how.

    Raises:
        InterruptedJobError: ``tick`` said to stop.
        ValueError, OSError, ImportError: as training and data raise.
    """
    started = time.monotonic()
    try:
        done = _run_images(job, folder, tick) if isinstance(job, ImageJob) else _run_sounds(job, folder, tick)
    except FloatingPointError as error:
        # A result like any other: some of the paper's settings may diverge, and the rest is to be run all the same.
        done = {"results": {}, "curves": {}, "diverged": str(error)}
    return {
        "schema": SCHEMA,
        "key": job.key,
        "kind": job.KIND,
        "settings": job.settings(),
        "seed": job.seed,
        "provenance": provenance(ops.cpu_instruction_set()),
        "seconds": time.monotonic() - started,
        **done,
    }


def _run_images(job: ImageJob, folder: Path, tick: Tick) -> dict[str, Any]:
    train, test = data.load(job.dataset, "train"), data.load(job.dataset, "test")
    images = train.images[: job.limit]
    settings = TrainSettings(job.epochs, job.batch_size, job.steps, job.max_rate, job.seed)
    trainer = Trainer(_autoencoder(job, images.shape[1]), images, settings)
    trainer.run(on_batch=lambda run: _tick(run, tick))
    most = job.test_limit or 10_000
    results = {
        "train": dataclasses.asdict(training.evaluate(trainer.model, images[:most], settings, "train")),
        "test": dataclasses.asdict(training.evaluate(trainer.model, test.images[:most], settings, "test")),
    }
    if "error_zeros" in trainer.history:
        zeros = trainer.history["error_zeros"]
        results["training"] = {"error_zeros": sum(zeros) / len(zeros)}
    checkpoint.save(model_path(folder, job), trainer)
    if job.seed == 0:
        autoencoder_runs.picture(picture_path(folder, job), trainer.model, settings, test)
    return {"results": results, "curves": {"batch": trainer.history[trainer.columns[0]]}}


def _autoencoder(job: ImageJob, features: int) -> SpikingAutoencoder | ANNAutoencoder:
    generator = weight_generator(job.seed)
    if job.method == "ann":
        return ANNAutoencoder(
            features, job.hidden, ANNRule(job.optimizer, job.lr, job.weight_decay), generator=generator
        )
    chosen = preset(job.method, features)
    rule = dataclasses.replace(
        chosen.rule, leak=job.leak, optimizer=job.optimizer, lr=job.lr, weight_decay=job.weight_decay
    )
    make = SpikingAutoencoder if job.masked else UnmaskedAutoencoder
    return make(features, job.hidden, rule, init_bound=chosen.init_bound, generator=generator)


def _run_sounds(job: SoundJob, folder: Path, tick: Tick) -> dict[str, Any]:
    heard = _heard(job.corpus, job.limit)
    images = data.load(job.autoencoder.dataset, "train")
    pairs = data.pair(job.pairing, heard.train_rates, heard.train_labels, images.images, images.labels)
    settings = TrainSettings(job.epochs, job.batch_size, job.steps, job.max_rate, job.seed)
    path = part_path(folder, job)
    if folders.exists(path):
        trainer = checkpoint.load_audio_to_image(path).resume(pairs)
    else:
        trainer = SynthesisTrainer(_audio_to_image(job, folder, pairs.rates.shape[1]), pairs, settings)
    reader = digit_classifier.recogniser() if pairs.images.shape[1] == 784 else None

    def measure(split: str) -> dict[str, Any]:
        # The paper's training metric is against the paired image; of data set A both are the same.
        rates, labels = {
            "test": (heard.test_rates, heard.test_labels),
            "train": (heard.train_rates[: len(heard.test_labels)], heard.train_labels[: len(heard.test_labels)]),
        }[split]
        result = audio_to_image.evaluate(
            trainer.model, rates, labels, pairs, trainer.settings, stream=split, recognise=reader
        )
        return dataclasses.asdict(result)

    def on_batch(run: SynthesisTrainer) -> None:
        if run.batch % run.batches_per_epoch == 0:
            run.measured.append({"epoch": run.batch // run.batches_per_epoch, **measure("test")})
            checkpoint.save_audio_to_image(path, run)
        _tick(run, tick)

    trainer.run(on_batch=on_batch)
    floor = dataclasses.asdict(audio_to_image.baselines(heard.test_labels, pairs))
    if job.seed == 0:
        heading = f"Data set {job.pairing}, test recordings of {job.corpus}"
        audio_to_image_runs.picture(picture_path(folder, job), trainer.model, settings, heard, pairs, heading)
    results = {"train": measure("train"), "test": trainer.measured[-1], "baselines": floor}
    return {"results": results, "curves": {"epoch": [entry["mse"] for entry in trainer.measured]}}


def _audio_to_image(job: SoundJob, folder: Path, features: int) -> AudioToImage | ANNAudioToImage:
    path = model_path(folder, job.autoencoder)
    if not folders.exists(path):
        if "diverged" in read_result(folder, job.autoencoder):
            raise FloatingPointError("the autoencoder that it builds on diverged")
        reason = f"no trained autoencoder; delete {result_path(folder, job.autoencoder)} to train it again"
        raise FileNotFoundError(errno.ENOENT, reason, str(path))
    autoencoder = checkpoint.load(path).model
    generator = torch.Generator().manual_seed(derived_seed(job.seed, "audiocoder weights"))
    outputs = autoencoder.hidden_features
    if isinstance(autoencoder, ANNAutoencoder):
        rule = ANNRule(job.optimizer, job.lr, job.weight_decay)
        ann = ANNAudiocoder(features, job.hidden, outputs, rule, generator=generator)
        return ANNAudioToImage(ann, autoencoder, bits=job.duration)
    chosen = audiocoder_preset(job.method)
    spiking = dataclasses.replace(
        chosen.rule, leak=job.leak, optimizer=job.optimizer, lr=job.lr, weight_decay=job.weight_decay
    )
    bound = chosen.init_bound or 0.01
    coder = Audiocoder(features, job.hidden, outputs, spiking, init_bound=bound, generator=generator)
    return AudioToImage(coder, autoencoder, duration=job.duration, image_rate=job.autoencoder.max_rate)


@functools.lru_cache(maxsize=1)
def _heard(corpus: str, limit: int | None) -> corpora.Sounds:
    return corpora.hear(corpus, None, limit)


def _tick(run: BatchRun, tick: Tick) -> None:
    if tick(run.batch / run.total_batches) and not run.done:
        raise InterruptedJobError


def read_result(folder: Path, job: Job) -> dict[str, Any]:
    """The result of a job that is done.

    Raises:
        ValueError: it is damaged or of another schema.
        OSError: it is not there or cannot be read.
    """
    path = result_path(folder, job)
    try:
        with folders.open_file(path) as file:
            result = json.loads(file.read())
    except ValueError as error:
        raise ValueError(f"{path}: a damaged result ({error}); delete it to run it again") from error
    if not isinstance(result, dict) or result.get("schema") != SCHEMA or result.get("key") != job.key:
        raise ValueError(f"{path}: expected a result of schema {SCHEMA}; delete it to run it again")
    return result


def result_path(folder: Path, job: Job) -> Path:
    """Where the result of a job is, once it is done."""
    return folder / f"{job.key}.json"


def model_path(folder: Path, job: ImageJob) -> Path:
    """Where the trained autoencoder of a job is."""
    return folder / f"{job.key}{checkpoint.SUFFIX}"


def picture_path(folder: Path, job: Job) -> Path:
    """Where the picture of a job on seed 0 is: what its net makes of test images or recordings."""
    return folder / f"{job.key}.png"


def part_path(folder: Path, job: SoundJob) -> Path:
    """Where a job that is not done is kept after every epoch."""
    return folder / f"{job.key}.part{checkpoint.SUFFIX}"
