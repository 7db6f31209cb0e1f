"""Options that several commands share, and their choices."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import Annotated, Any, Final

import torch
import typer

from spikefuse._io import folders

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
    """Formats the end of a command's help: one example a line."""
    return "Examples:\n\n" + "\n\n".join(f"`{line}`" for line in lines)


def there(value: Path | list[Path] | None) -> Path | list[Path] | None:
    """Refuses a path with nothing at it; of a broken link the error names the target too."""
    for path in value if isinstance(value, list) else [value]:
        if path is not None and not folders.exists(path):
            raise typer.BadParameter(f"Path {str(path)!r} does not exist.")
    return value


NETWORK: Final = "Network"
SPIKES: Final = "Spikes"
LEARNING: Final = "Learning"


def whole(help: str, metavar: str = "N", *, least: int = 1, panel: str | None = None) -> Any:
    """An option that takes a whole number."""
    return typer.Option(min=least, metavar=metavar, help=help, rich_help_panel=panel)


def real(help: str, *, most: float | None = None, panel: str | None = None) -> Any:
    """An option that takes a number >= 0."""
    return typer.Option(min=0, max=most, metavar="X", help=help, rich_help_panel=panel)


Dataset = Annotated[
    DatasetName,
    typer.Option(
        help="mnist, fashion-mnist, digits, or auto: MNIST where it is here or can be downloaded, else digits.",
        metavar="NAME",
    ),
]
Threads = Annotated[int | None, whole("CPU threads; spiking results are the same.")]
Leak = Annotated[float | None, real("Share of v lost in a step. Default: 0.1.", most=1, panel=NETWORK)]
WeightDecay = Annotated[float | None, real("Default: gated 1e-4, else 0.", panel=LEARNING)]
Resume = Annotated[bool, typer.Option("--resume", help="Go on from the folder's checkpoint, bit for bit.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Begin anew where the folder has a checkpoint.")]
Seed = Annotated[int | None, whole("Of weights, order and spikes: one seed, one result. Default: 0.", least=0)]
SpikeSeed = Annotated[int | None, whole("Of the spikes. Default: the training's.", least=0)]
CheckpointPath = Annotated[Path, typer.Argument(help="A checkpoint, or the folder of a run.", callback=there)]
OtherDataset = Annotated[
    DatasetName | None, typer.Option("--dataset", metavar="NAME", help="Default: what the model was trained on.")
]


def set_threads(threads: int | None) -> None:
    """Sets torch's threads where their number was given."""
    if threads is not None:
        torch.set_num_threads(threads)
