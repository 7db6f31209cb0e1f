"""Parts of an entry: cases, charts, and the jobs of the paper at a given size."""

from __future__ import annotations

import dataclasses
from typing import Final

from spikefuse.paper.experiments.claims import Claim
from spikefuse.paper.experiments.jobs import ImageJob, Job, SoundJob

ERROR: Final = "MSE (1 = silent net)"
"""Label of the error in charts."""

READINGS: Final = ("shared", "gated")


@dataclasses.dataclass(frozen=True)
class Sizes:
    """How large everything is.

    Attributes:
        name: for the outputs.
        images: training images, None for all.
        fashion_images: the same, of Fashion-MNIST.
        test_images: that each split is measured on, None for 10,000.
        recordings: training recordings, None for all.
        sound_hidden: hidden neurons of the audiocoders.
        sound_epochs: passes over the recordings.
        sound_lr: learning rate of the spiking audiocoder.
        seeds: of jobs on images.
        sound_seeds: of jobs on sounds.
        corpus: of the recordings, "fsdd" or "ti46".
    """

    name: str
    images: int | None
    fashion_images: int | None
    test_images: int | None
    recordings: int | None
    sound_hidden: int
    sound_epochs: int
    sound_lr: float
    seeds: int
    sound_seeds: int
    corpus: str = "fsdd"


FULL: Final = Sizes("full size", None, None, None, None, 2048, 20, 5e-5, 3, 1)
# The paper's learning rate of the audiocoder is too low for so few neurons and epochs.
QUICK: Final = Sizes("quick: smaller than the paper", 12_000, 6_000, 2_000, None, 256, 2, 5e-4, 2, 1)


@dataclasses.dataclass(frozen=True)
class Case:
    """One line or bar: a job on several seeds.

    Attributes:
        name: unique in its entry.
        job: on any seed.
        x: its place on the x axis of charts that have one.
    """

    name: str
    job: Job
    x: float | None = None


@dataclasses.dataclass(frozen=True)
class Chart:
    """A chart to draw.

    Attributes:
        kind: "bars" of a measure, "curve" of the error over training, "lines" of a measure over the cases' ``x``, or
            "pictures" of what the nets of seed 0 make of test samples.
        heading: above it.
        cases: names of the cases, of all but "lines".
        x: label of the x axis, with its unit.
        y: label of the y axis; without meaning for "bars", whose measures are on the x axis.
        measure: such as "test.mse".
        groups: label and names of the cases of each line, of "lines".
    """

    kind: str
    heading: str
    cases: tuple[str, ...]
    x: str = ""
    y: str = ""
    measure: str = "test.mse"
    groups: tuple[tuple[str, tuple[str, ...]], ...] = ()


@dataclasses.dataclass(frozen=True)
class Entry:
    """One figure or table of the paper, or a question beyond it.

    Attributes:
        id: such as "F3".
        title: what it asks.
        notes: what to know when reading it.
        cases: what is run.
        charts: what is drawn.
        claims: what the paper says, or what we say where it is beyond the paper.
        beyond: whether it is ours and not the paper's.
    """

    id: str
    title: str
    notes: str
    cases: tuple[Case, ...]
    charts: tuple[Chart, ...]
    claims: tuple[Claim, ...]
    beyond: bool = False


class Jobs:
    """The jobs of the paper at given sizes; equal settings make equal jobs, which are run once.

    Args:
        sizes: of all jobs.
    """

    def __init__(self, sizes: Sizes) -> None:
        self.sizes = sizes

    def mnist(
        self,
        reading: str,
        *,
        leak: float = 0.1,
        steps: int = 15,
        hidden: int = 196,
        mask: bool = True,
        rate: float | None = None,
    ) -> ImageJob:
        """An autoencoder of MNIST in one of the readings; ``rate`` is another than the reading's."""
        usual, decay = (0.3, 0.0) if reading == "shared" else (1.0, 1e-4)
        return ImageJob(
            "mnist", reading, hidden, steps, usual if rate is None else rate, leak, mask,
            weight_decay=decay, limit=self.sizes.images, test_limit=self.sizes.test_images,
        )  # fmt: skip

    def fashion(self, reading: str, *, hidden: int = 1024, steps: int = 60) -> ImageJob:
        """An autoencoder of Fashion-MNIST in one of the readings."""
        rate, decay = (0.5, 0.0) if reading == "shared" else (1.0, 1e-4)
        return ImageJob(
            "fashion-mnist", reading, hidden, steps, rate,
            weight_decay=decay, limit=self.sizes.fashion_images, test_limit=self.sizes.test_images,
        )  # fmt: skip

    def ann(
        self,
        dataset: str,
        optimizer: str,
        lr: float,
        hidden: int = 196,
        *,
        epochs: int = 1,
        weight_decay: float = 1e-4,
    ) -> ImageJob:
        """An artificial autoencoder, with the weight decay of the text unless another is given."""
        limit = self.sizes.images if dataset == "mnist" else self.sizes.fashion_images
        return ImageJob(
            dataset, "ann", hidden,
            optimizer=optimizer, lr=lr, weight_decay=weight_decay, epochs=epochs,
            limit=limit, test_limit=self.sizes.test_images,
        )  # fmt: skip

    def sound(
        self, reading: str, pairing: str, duration: int, *, rate: float | None = None, sound_rate: float = 0.02
    ) -> SoundJob:
        """A spiking net that makes images of sound; its autoencoder has all images at any size.

        ``rate`` is another spike probability of a white pixel than the reading's, ``sound_rate`` that of loud sound.
        """
        sizes = self.sizes
        autoencoder = dataclasses.replace(self.mnist(reading, rate=rate), limit=None)
        return SoundJob(
            autoencoder, pairing, duration, sizes.sound_hidden, max_rate=sound_rate,
            lr=sizes.sound_lr, weight_decay=1e-4 if reading == "gated" else 0.0,
            epochs=sizes.sound_epochs, limit=sizes.recordings, corpus=sizes.corpus,
        )  # fmt: skip

    def sound_ann(self, optimizer: str, pairing: str, bits: int) -> SoundJob:
        """An artificial one, on the artificial autoencoder of the same optimizer."""
        sizes = self.sizes
        autoencoder = self.ann("mnist", optimizer, 1e-3 if optimizer == "adam" else 1e-2)
        autoencoder = dataclasses.replace(autoencoder, limit=None)
        return SoundJob(
            autoencoder, pairing, bits, sizes.sound_hidden,
            optimizer=optimizer, lr=1e-4, weight_decay=1e-4,
            epochs=sizes.sound_epochs, limit=sizes.recordings, corpus=sizes.corpus,
        )  # fmt: skip
