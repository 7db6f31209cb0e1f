"""Options that several commands share, and their choices."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import Annotated, Final

import torch
import typer

SIGNAL_EXIT: Final = 128
"""Added to the number of the signal that ended a run, the exit code."""


class DatasetName(str, Enum):
    """Choices of --dataset."""

    AUTO = "auto"
    MNIST = "mnist"
    FASHION_MNIST = "fashion-mnist"
    DIGITS = "digits"


class TraceName(str, Enum):
    """Choices of --trace."""

    SHARED = "shared"
    GATED = "gated"


class CorpusName(str, Enum):
    """Choices of --corpus."""

    FSDD = "fsdd"
    TI46 = "ti46"
    FOLDER = "folder"


class PairingName(str, Enum):
    """Choices of --dataset for sounds."""

    A = "A"
    B = "B"


class OptimizerName(str, Enum):
    """Choices of --optimizer."""

    ADAM = "adam"
    SGD = "sgd"


class SplitName(str, Enum):
    """Choices of --split."""

    TRAIN = "train"
    TEST = "test"


def examples(*lines: str) -> str:
    """What a command's help ends with: one example a line."""
    return "Examples:\n\n" + "\n\n".join(f"`{line}`" for line in lines)


NETWORK: Final = "Network"
SPIKES: Final = "Spikes"
LEARNING: Final = "Learning"

Dataset = Annotated[
    DatasetName,
    typer.Option(
        help="mnist, fashion-mnist, digits, or auto: MNIST where it is here or can be downloaded, else digits.",
        metavar="NAME",
    ),
]
Threads = Annotated[
    int | None,
    typer.Option("--threads", min=1, metavar="N", help="CPU threads; spiking results are the same."),
]
Seed = Annotated[
    int | None,
    typer.Option("--seed", min=0, metavar="N", help="Of weights, order and spikes: one seed, one result. Default: 0."),
]
SpikeSeed = Annotated[
    int | None, typer.Option("--seed", min=0, metavar="N", help="Of the spikes. Default: the training's.")
]
CheckpointPath = Annotated[Path, typer.Argument(help="A checkpoint, or the folder of a run.", exists=True)]
OtherDataset = Annotated[
    DatasetName | None, typer.Option("--dataset", metavar="NAME", help="Default: what the model was trained on.")
]


def set_threads(threads: int | None) -> None:
    """Sets torch's threads where their number was given."""
    if threads is not None:
        torch.set_num_threads(threads)
