"""The commands that train a net to make images of sound, and use one."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Final

import typer
from rich.console import Console

from spikefuse.cli.arguments import (
    LEARNING,
    NETWORK,
    SIGNAL_EXIT,
    SPIKES,
    CorpusName,
    Leak,
    Overwrite,
    PairingName,
    Resume,
    Seed,
    SpikeSeed,
    Threads,
    TraceName,
    WeightDecay,
    examples,
    real,
    set_threads,
    there,
    whole,
)
from spikefuse.paper.training.audio_to_image_runs import COMMAND, FOLDER, SynthesisOptions, synthesize_files, train

TRAIN_EPILOG: Final = examples(
    "spikefuse train audio-to-image --hidden 256 --epochs 5",
    "spikefuse train audio-to-image --dataset B --out runs/b",
    "spikefuse train audio-to-image --corpus ti46 --folder TI46 --th 15",
    "spikefuse train audio-to-image --out runs/b --resume",
)


def train_audio_to_image(
    corpus: Annotated[
        CorpusName | None,
        typer.Option(
            help="Recordings. fsdd (default): 3,000 spoken digits, downloaded where they are not here. ti46: LDC's. "
            "folder: any folder of labelled WAV files.",
            metavar="NAME",
        ),
    ] = None,
    folder: Annotated[Path | None, typer.Option(metavar="DIR", help="Of --corpus folder or ti46.")] = None,
    dataset: Annotated[
        PairingName | None,
        typer.Option(help="A (default): one image for each class. B: one for each recording."),
    ] = None,
    limit: Annotated[int | None, whole("Train on the first N recordings only.")] = None,
    autoencoder: Annotated[
        Path | None,
        typer.Option(
            metavar="RUN",
            callback=there,
            help="A trained spiking autoencoder. Default: one of MNIST is trained first.",
            rich_help_panel=NETWORK,
        ),
    ] = None,
    hidden: Annotated[int | None, whole("Hidden neurons of the audiocoder. Default: 2048.", panel=NETWORK)] = None,
    leak: Leak = None,
    th: Annotated[int | None, whole("Steps of a stored hidden map. Default: 10.", "T", panel=SPIKES)] = None,
    steps: Annotated[int | None, whole("Time steps per recording. Default: 60.", "T", panel=SPIKES)] = None,
    rate: Annotated[float | None, real("Spike probability of loud sound. Default: 0.02.", most=1, panel=SPIKES)] = None,
    image_rate: Annotated[
        float | None,
        real(
            "Spike probability of a white pixel where hidden maps are made. Default: the autoencoder's own.",
            most=1,
            panel=SPIKES,
        ),
    ] = None,
    trace: Annotated[
        TraceName | None,
        typer.Option(
            help="Reading of the paper's rule: shared (default), the authors' code; gated, the text.",
            rich_help_panel=LEARNING,
        ),
    ] = None,
    epochs: Annotated[int | None, whole("Passes over the recordings. Default: 20.", least=0, panel=LEARNING)] = None,
    batch_size: Annotated[int | None, whole("Recordings. Default: 50.", panel=LEARNING)] = None,
    lr: Annotated[
        float | None, real("Learning rate. Default: 5e-5; below 1,024 hidden neurons 5e-4.", panel=LEARNING)
    ] = None,
    weight_decay: WeightDecay = None,
    seed: Seed = None,
    out: Annotated[Path, typer.Option(file_okay=False, metavar="DIR", help="Folder of the run.")] = FOLDER,
    resume: Resume = False,
    overwrite: Overwrite = False,
    checkpoint_every: Annotated[int | None, whole("Batches between checkpoints. Default: an epoch.")] = None,
    threads: Threads = None,
) -> None:
    """Train a net that makes an image of a spoken digit.

    An audiocoder learns online to emit the hidden spikes that a spiking autoencoder emitted for the image of what is
    said; the autoencoder's second layer makes an image of them. At the default size an epoch takes some two minutes on
    two cores and a checkpoint 480 MB; --hidden 256 learns in a tenth of it. Every epoch is measured on the test
    recordings. The folder of the run gets checkpoint.safetensors, metrics.json, mse.png and images.png. Ctrl-C saves
    the checkpoint.
    """
    if resume and overwrite:
        raise typer.BadParameter("--resume and --overwrite exclude each other")
    options = SynthesisOptions(
        autoencoder=autoencoder,
        corpus=corpus.value if corpus else None,
        folder=folder,
        dataset=dataset.value if dataset else None,
        limit=limit,
        hidden=hidden,
        th=th,
        steps=steps,
        rate=rate,
        image_rate=image_rate,
        trace=trace.value if trace else None,
        lr=lr,
        leak=leak,
        weight_decay=weight_decay,
        epochs=epochs,
        batch_size=batch_size,
        seed=seed,
    )
    set_threads(threads)
    signal = train(options, out, resume=resume, overwrite=overwrite, save_every=checkpoint_every, console=Console())
    if signal is not None:
        raise typer.Exit(SIGNAL_EXIT + signal)


SYNTHESIZE_EPILOG: Final = examples("spikefuse synthesize seven.wav -o seven.png", f"{COMMAND} --hidden 256 --epochs 5")


def synthesize(
    sounds: Annotated[list[Path], typer.Argument(help="WAV or SPHERE files of one spoken digit each.", callback=there)],
    output: Annotated[Path, typer.Option("--output", "-o", dir_okay=False, help="The PNG to write.")],
    model: Annotated[Path, typer.Option(help="A checkpoint, or the folder of a run.")] = FOLDER,
    seed: SpikeSeed = None,
    read: Annotated[
        bool, typer.Option("--read", help="Also say which digits a small classifier reads in the images.")
    ] = False,
    threads: Threads = None,
) -> None:
    """Draw the images that a net of `spikefuse train audio-to-image` makes of sounds."""
    set_threads(threads)
    console = Console()
    written = synthesize_files(sounds, model, output, seed=seed, read=read, console=console)
    console.print(f"Wrote {written}", soft_wrap=True)
