"""The commands of `spikefuse` and their options."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

import spikefuse
from spikefuse.cli import doctor as doctor_facts
from spikefuse.cli import synthesis_commands
from spikefuse.cli.arguments import (
    LEARNING,
    NETWORK,
    SIGNAL_EXIT,
    SPIKES,
    CheckpointPath,
    Dataset,
    DatasetName,
    Leak,
    OptimizerName,
    OtherDataset,
    Overwrite,
    Resume,
    Seed,
    SpikeSeed,
    SplitName,
    Threads,
    TraceName,
    WeightDecay,
    examples,
    real,
    set_threads,
    whole,
)
from spikefuse.paper.training import autoencoder_runs, progress
from spikefuse.paper.training.recipes import Options

app = typer.Typer(
    name="spikefuse",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    help="Train spiking autoencoders online, measure them and look at what they reconstruct.",
    epilog="Begin with `spikefuse demo`. If something is amiss, `spikefuse doctor` says what.",
)
train_app = typer.Typer(no_args_is_help=True, help="Train a model.")
app.add_typer(train_app, name="train")


def _version(wanted: bool) -> None:
    if wanted:
        print(f"spikefuse {spikefuse.__version__}")
        raise typer.Exit


@app.callback()
def _main(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and leave.")
    ] = False,
) -> None:
    pass


@train_app.command(
    "autoencoder",
    epilog=examples(
        "spikefuse train autoencoder --dataset mnist",
        "spikefuse train autoencoder --dataset mnist --trace gated --out runs/gated",
        "spikefuse train autoencoder --dataset fashion-mnist --hidden 512 --steps 60",
        "spikefuse train autoencoder --dataset mnist --ann --optimizer sgd",
        "spikefuse train autoencoder --out runs/gated --resume --epochs 2",
    ),
)
def train_autoencoder(
    dataset: Dataset = DatasetName.AUTO,
    limit: Annotated[int | None, whole("Train on the first N images only.")] = None,
    hidden: Annotated[int | None, whole("Hidden neurons. Default: 196; digits 32.", panel=NETWORK)] = None,
    leak: Leak = None,
    ann: Annotated[
        bool,
        typer.Option("--ann", help="Train the artificial network (ReLU) of these sizes.", rich_help_panel=NETWORK),
    ] = False,
    steps: Annotated[int | None, whole("Time steps per image. Default: 15.", "T", panel=SPIKES)] = None,
    rate: Annotated[
        float | None,
        real(
            "Spike probability per step of a white pixel. Default: shared 0.5 (the authors' code has 0.3, which leaves "
            "a Spike-MSE of 0.25 on MNIST where 0.5 leaves 0.17), with digits 0.7; gated 1.",
            most=1,
            panel=SPIKES,
        ),
    ] = None,
    trace: Annotated[
        TraceName | None,
        typer.Option(
            help="Reading of the paper's rule. shared (default): the authors' code, one trace per input. gated: the "
            "paper's text, one per synapse, zeroed by spikes.",
            rich_help_panel=LEARNING,
        ),
    ] = None,
    epochs: Annotated[
        int | None,
        whole("Passes over the images. Default: 1; digits 4, gated 15, --ann 30.", least=0, panel=LEARNING),
    ] = None,
    batch_size: Annotated[int | None, whole("Images. Default: 100; digits 10.", panel=LEARNING)] = None,
    optimizer: Annotated[
        OptimizerName | None,
        typer.Option(
            help="adam (default; spiking: its moments start anew in every batch) or sgd.", rich_help_panel=LEARNING
        ),
    ] = None,
    lr: Annotated[
        float | None, real("Learning rate. Default: 5e-4; --ann 1e-3, with sgd 1e-2.", panel=LEARNING)
    ] = None,
    weight_decay: WeightDecay = None,
    seed: Seed = None,
    out: Annotated[
        Path | None,
        typer.Option(file_okay=False, metavar="DIR", help="Folder of the run. Default: runs/DATASET-TRACE."),
    ] = None,
    resume: Resume = False,
    overwrite: Overwrite = False,
    checkpoint_every: Annotated[int, whole("Batches between checkpoints.")] = 100,
    threads: Threads = None,
) -> None:
    """Train a spiking autoencoder online: weights change at every time step.

    It learns to emit at its output the Poisson spikes of its input, through a hidden layer. The folder of the run gets
    checkpoint.safetensors, metrics.json, reconstructions.png, loss.png and filters.png. Ctrl-C saves the checkpoint.
    """
    options = Options(
        dataset=None if dataset is DatasetName.AUTO else dataset.value,
        ann=ann or None,
        trace=trace.value if trace else None,
        hidden=hidden,
        epochs=epochs,
        batch_size=batch_size,
        steps=steps,
        rate=rate,
        optimizer=optimizer.value if optimizer else None,
        lr=lr,
        leak=leak,
        weight_decay=weight_decay,
        seed=seed,
        limit=limit,
    )
    if resume and overwrite:
        raise typer.BadParameter("--resume and --overwrite exclude each other")
    _train(options, out, resume=resume, overwrite=overwrite, save_every=checkpoint_every, threads=threads)


@app.command(epilog=examples("spikefuse demo", "spikefuse demo --dataset digits --out runs/digits"))
def demo(
    dataset: Dataset = DatasetName.AUTO,
    out: Annotated[Path, typer.Option(file_okay=False, help="Folder of the run, overwritten.")] = Path("runs/demo"),
    seed: Seed = None,
    threads: Threads = None,
) -> None:
    """Train a 784-196-784 spiking autoencoder on MNIST for one epoch, and show what it has learned.

    The shared trace of the authors' code, 15 time steps; a white pixel spikes at every second step on average. About
    half a minute on two cores. Where MNIST is not to be had: 64-32-64 on the 8x8 digits, some seconds.
    """
    options = Options(dataset=None if dataset is DatasetName.AUTO else dataset.value, seed=seed)
    _train(options, out, resume=False, overwrite=True, save_every=100, threads=threads)


@app.command(epilog=examples("spikefuse evaluate runs/demo", "spikefuse evaluate runs/demo --seed 7 --json seed7.json"))
def evaluate(
    checkpoint: CheckpointPath,
    dataset: OtherDataset = None,
    limit: Annotated[int | None, whole("Measure on the first N images only.")] = None,
    seed: SpikeSeed = None,
    json: Annotated[Path | None, typer.Option(dir_okay=False, help="Also write the figures to this file.")] = None,
    threads: Threads = None,
) -> None:
    """Measure a trained autoencoder with fresh Poisson spikes, on training and test images.

    MSE compares the output with the image, Spike-MSE with the input spikes, both summed over time and normalised: 0 is
    perfect, a silent net scores 1, an unrelated map 2.
    """
    set_threads(threads)
    from spikefuse.paper.training import autoencoder
    from spikefuse.paper.training import checkpoint as checkpoints

    console = Console()
    kept = checkpoints.load(autoencoder_runs.checkpoint_path(checkpoint))
    settings = kept.settings if seed is None else dataclasses.replace(kept.settings, seed=seed)
    results = {}
    for split in SplitName:
        images = autoencoder_runs.load_split(kept, _other(dataset), split.value).images[:limit]
        results[split.value] = autoencoder.evaluate(kept.model, images, settings, split.value)
    console.print(progress.results_table(results))
    if json is not None:
        name = _other(dataset) or autoencoder_runs.dataset_of(kept)
        run = {"dataset": name, "limit": limit, "trained_on": kept.run}
        console.print(
            f"Wrote {autoencoder_runs.write_metrics(json, kept.model, settings, run, results)}", soft_wrap=True
        )


@app.command(epilog=examples("spikefuse reconstruct runs/demo -o digits.png --count 20"))
def reconstruct(
    checkpoint: CheckpointPath,
    output: Annotated[Path, typer.Option("--output", "-o", dir_okay=False, help="The PNG to write.")],
    dataset: OtherDataset = None,
    split: Annotated[SplitName, typer.Option(help="Which images.")] = SplitName.TEST,
    count: Annotated[int, typer.Option(min=1, max=40, help="How many images, of all classes in turn.")] = 10,
    seed: SpikeSeed = None,
    threads: Threads = None,
) -> None:
    """Draw images, their spikes, the hidden spikes, and what the autoencoder makes of them."""
    set_threads(threads)
    from spikefuse.paper.training import checkpoint as checkpoints

    kept = checkpoints.load(autoencoder_runs.checkpoint_path(checkpoint))
    settings = kept.settings if seed is None else dataclasses.replace(kept.settings, seed=seed)
    images = autoencoder_runs.load_split(kept, _other(dataset), split.value)
    written = autoencoder_runs.picture(output, kept.model, settings, images, count)
    Console().print(f"Wrote {written}", soft_wrap=True)


train_app.command("audio-to-image", epilog=synthesis_commands.TRAIN_EPILOG)(synthesis_commands.train_audio_to_image)
app.command(epilog=synthesis_commands.SYNTHESIZE_EPILOG)(synthesis_commands.synthesize)


@app.command(
    epilog=examples(
        "spikefuse reproduce --quick --out runs/paper",
        "spikefuse reproduce --quick --only F3 --only F5 --out runs/paper",
    )
)
def reproduce(
    out: Annotated[Path, typer.Option(file_okay=False, metavar="DIR", help="Folder of all results.")],
    quick: Annotated[
        bool, typer.Option("--quick", help="Smaller than the paper: less than 45 minutes on two cores.")
    ] = False,
    only: Annotated[
        list[str] | None,
        typer.Option(metavar="ID", help="F3, F4, F5, F6, F7, F8-9, F10, T1; B1, B2, B3. Default: all."),
    ] = None,
    seeds: Annotated[int | None, whole("Seeds of each experiment on images.")] = None,
    sound_seeds: Annotated[int | None, whole("Of each on sounds. Default: 1.")] = None,
    ti46: Annotated[
        bool, typer.Option("--ti46", help="The paper's recordings, from SPIKEFUSE_DATA; else FSDD.")
    ] = False,
    threads: Threads = None,
) -> None:
    """Run the paper's experiments and our own beyond it (B1 to B3), and say of each claim whether it holds.

    Writes report.html, results.json and charts/ into the folder. What is done there already is not done again: after
    Ctrl-C, or a machine that went down, the same command goes on and ends with the same numbers.
    """
    set_threads(threads)
    from spikefuse.paper.experiments import entries, runner
    from spikefuse.paper.experiments import report as reproduction

    sizes = entries.QUICK if quick else entries.FULL
    sizes = dataclasses.replace(
        sizes,
        seeds=seeds or sizes.seeds,
        sound_seeds=sound_seeds or sizes.sound_seeds,
        corpus="ti46" if ti46 else sizes.corpus,
    )
    chosen = entries.select(entries.entries(sizes), only)
    console = Console()
    signal = runner.run_all(chosen, sizes, out, console)
    if signal is not None:
        console.print("Stopped; the same command goes on.")
        raise typer.Exit(SIGNAL_EXIT + signal)
    console.print(f"Wrote {reproduction.write(chosen, sizes, out)}", soft_wrap=True)


@app.command()
def doctor() -> None:
    """Say what is installed, which kernels run here, and which data sets are found."""
    Console().print(doctor_facts.facts_table(doctor_facts.facts()))


def _train(
    options: Options, out: Path | None, *, resume: bool, overwrite: bool, save_every: int, threads: int | None
) -> None:
    set_threads(threads)
    signal = autoencoder_runs.train(
        options, out, resume=resume, overwrite=overwrite, save_every=save_every, console=Console()
    )
    if signal is not None:
        raise typer.Exit(SIGNAL_EXIT + signal)


def _other(dataset: DatasetName | None) -> str | None:
    return None if dataset in (None, DatasetName.AUTO) else dataset.value
