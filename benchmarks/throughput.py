"""Training-step throughput of LIFLinear against a plain PyTorch loop and the libraries that are installed.

    python benchmarks/throughput.py                  all shapes; 58500-2048-196 takes minutes and needs 8 GB
    python benchmarks/throughput.py --shapes 784-196-784 --rounds 30
    python benchmarks/throughput.py --device cuda --all-peers

One step is forward and backward of two spiking layers with the masked membrane-potential loss, at 58500-2048-196 also
fused Adam; weights, inputs and targets are equal for all, inputs are real spikes of the stated density. Peers come with
the extra "peers".

On a GPU torch.compile is given one time step, called in a loop. It is given the whole loop only up to 16 steps: it
unrolls the loop, and compiling 60 steps does not end in minutes.
"""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Callable
from importlib import metadata

import eager
import harness
import peers
import plots
import torch
from torch import Tensor

from spikefuse import LIFLinear, PackedSpikes, functional

LEAK = 0.1
# Small, so that firing rates, on which event-driven steps depend, stay the same over the rounds.
ADAM = {"lr": 1e-6, "fused": True}


@dataclasses.dataclass(frozen=True)
class Shape:
    features: int
    hidden: int
    outputs: int
    steps: int
    samples: int
    densities: tuple[float, ...]
    rounds: int
    wide: bool = False
    """Input packed beforehand, random targets, Adam, and without the libraries unless asked for."""


SHAPES = {
    "784-196-784": Shape(784, 196, 784, 15, 100, (0.13,), 11),
    "784-1024-784": Shape(784, 1024, 784, 60, 100, (0.29,), 11),
    "58500-2048-196": Shape(58500, 2048, 196, 60, 50, (0.0012, 0.05), 3, wide=True),
    "40-30-20": Shape(40, 30, 20, 3, 4, (0.2,), 2, wide=True),
}
SMOKE = "40-30-20"
"""For tests, and not measured unless asked for."""
TARGET_DENSITY = 0.2


@dataclasses.dataclass(frozen=True)
class Model:
    weights: list[Tensor]
    loss: Callable[[], Tensor]


def spikefuse_model(
    weights: list[Tensor], x: Tensor | PackedSpikes, target: PackedSpikes, one_kernel: bool = False
) -> Model:
    layers = [LIFLinear(w.shape[1], w.shape[0], leak=LEAK, device=w.device) for w in weights]
    with torch.no_grad():
        for layer, weight in zip(layers, weights, strict=True):
            layer.weight.copy_(weight)

    def loss() -> Tensor:
        hidden = functional.lif_linear(x, layers[0].weight, leak=LEAK).spikes if one_kernel else layers[0](x)[0]
        return layers[1].masked_loss(hidden, target).loss

    return Model([layer.weight for layer in layers], loss)


def peer_model(make: Callable[..., peers.Loss], weights: list[Tensor], x: Tensor, target: Tensor) -> Model:
    parameters = [w.clone().requires_grad_() for w in weights]
    return Model(parameters, make(parameters, x, target, LEAK))


def plain_loop(weights: list[Tensor], x: Tensor, target: Tensor, leak: float) -> peers.Loss:
    return lambda: eager.masked_autoencoder_loss(weights, x, target, leak)


def compiled_losses(
    weights: list[Tensor], x: Tensor, target: Tensor, **options: str
) -> tuple[dict[str, peers.Loss], dict[str, str]]:
    return harness.compiled_loops(
        plain_loop(weights, x, target, LEAK),
        lambda step: lambda: eager.masked_autoencoder_loss(weights, x, target, LEAK, step),
        eager.masked_autoencoder_step,
        len(x),
        **options,
    )


def forward_step(model: Model) -> Callable[[], None]:
    """The loss alone, without a graph."""

    def step() -> None:
        with torch.no_grad():
            model.loss()

    return step


def training_step(model: Model, with_adam: bool) -> Callable[[], None]:
    """One step, after which no gradient is left: every step of every side allocates its own."""
    # torch's fused Adam copies every gradient that is not contiguous. LIFLinear's is its weight's, input-major: the
    # optimizer is given the same memory the other way round, as one would in training.
    views = [w if w.is_contiguous() else torch.nn.Parameter(w.detach().t()) for w in model.weights]
    adam = torch.optim.Adam(views, **ADAM) if with_adam else None

    def step() -> None:
        model.loss().backward()
        if adam is not None:
            for view, w in zip(views, model.weights, strict=True):
                view.grad = w.grad if view is w else w.grad.t()
            adam.step()
            adam.zero_grad()
        for w in model.weights:
            w.grad = None

    return step


def make_problem(shape: Shape, density: float) -> tuple[list[Tensor], Tensor, Tensor]:
    """Weights, inputs and targets."""
    generator = torch.Generator().manual_seed(0)

    def spikes(neurons: int, share: float) -> Tensor:
        return (torch.rand(shape.steps, shape.samples, neurons, generator=generator) < share).float()

    x = spikes(shape.features, density)
    target = spikes(shape.outputs, TARGET_DENSITY) if shape.wide else x
    # Few of very many inputs spike: the hidden layer is to be as busy as the narrow one at 13 %.
    gains = ((0.13 / density) ** 0.5 if shape.wide else 1.0, 1.0)
    sizes = ((shape.hidden, shape.features), (shape.outputs, shape.hidden))
    weights = [
        (torch.rand(o, i, generator=generator) * 2 - 1) * (gain * i**-0.5)
        for (o, i), gain in zip(sizes, gains, strict=True)
    ]
    return weights, x, target


def make_models(
    shape: Shape, density: float, with_peers: bool, device: str
) -> tuple[dict[str, Model], list[str], dict[str, str]]:
    """The cases, ours first, which peers are missing, and why other cases are not run."""
    weights, x, target = make_problem(shape, density)
    weights, x, target = [w.to(device) for w in weights], x.to(device), target.to(device)
    packed, packed_target = PackedSpikes.pack(x), PackedSpikes.pack(target)
    not_run: dict[str, str] = {}
    models = {} if shape.wide else {"spikefuse": spikefuse_model(weights, x, packed_target)}
    models["spikefuse, packed input"] = spikefuse_model(weights, packed, packed_target)
    if device != "cpu":
        models["spikefuse, one kernel a layer"] = spikefuse_model(weights, packed, packed_target, one_kernel=True)
        parameters = [w.clone().requires_grad_() for w in weights]
        compiled, not_run = compiled_losses(parameters, x, target)
        models |= {name: Model(parameters, loss) for name, loss in compiled.items()}
    models["plain PyTorch loop"] = peer_model(plain_loop, weights, x, target)
    missing = []
    for name, make in peers.PEERS.items() if with_peers else ():
        try:
            models[name] = peer_model(make, weights, x, target)
        except ImportError as error:
            missing.append(f"{name} ({error})")
    return models, missing, not_run


def compare(models: dict[str, Model], reference: str) -> tuple[dict[str, float], dict[str, float]]:
    """The losses, and how far gradients lie from the reference's, relative to its norm."""

    def loss_and_gradients(model: Model) -> tuple[float, list[Tensor]]:
        loss = model.loss()
        return float(loss.detach()), list(torch.autograd.grad(loss, model.weights))

    reference_loss, wanted = loss_and_gradients(models[reference])
    losses, differences = {reference: reference_loss}, {reference: 0.0}
    for name, model in models.items():
        if name != reference:
            losses[name], actual = loss_and_gradients(model)
            differences[name] = relative_difference(actual, wanted)
    return losses, differences


def relative_difference(actual: list[Tensor], wanted: list[Tensor]) -> float:
    squares = sum(float((a - w).square().sum()) for a, w in zip(actual, wanted, strict=True))
    return (squares / sum(float(w.square().sum()) for w in wanted)) ** 0.5


def measure(name: str, density: float, arguments: argparse.Namespace) -> dict:
    shape = SHAPES[name]
    models, missing, not_run = make_models(shape, density, arguments.all_peers or not shape.wide, arguments.device)
    ours = next(iter(models))
    losses, differences = compare(models, "plain PyTorch loop")
    steps = {
        case: forward_step(model) if arguments.forward else training_step(model, shape.wide)
        for case, model in models.items()
    }
    memory = {case: harness.peak_memory(step, arguments.device) for case, step in steps.items()}
    # the step that memory was measured in was the warm-up
    timings = harness.interleave(steps, arguments.rounds or shape.rounds, warmup=0, device=arguments.device)
    energy = {case: harness.joules(step, arguments.device) for case, step in steps.items()}
    rows = harness.timing_rows(timings, ours, memory)
    what = "forward" if arguments.forward else "one training step"
    harness.print_table(
        f"{name}, T {shape.steps}, B {shape.samples}, density {density:g}: {what}, ms",
        [*harness.TIMING_HEADER, "J", "loss", "gradient off by"],
        [[*row, harness.rounded(energy[row[0]]), f"{losses[row[0]]:.1f}", f"{differences[row[0]]:.1e}"] for row in rows]
        + harness.rows_not_run(not_run),
    )
    if missing:
        print("not measured:", "; ".join(missing))
    return {
        "shape": name,
        "density": density,
        "forward_only": arguments.forward,
        "with_adam": shape.wide and not arguments.forward,
        "losses": losses,
        "gradient_difference_to_plain_loop": differences,
        "peer_versions": peer_versions(),
        "not_measured": missing,
        "not_run": not_run,
        "timings": {case: t.to_dict() for case, t in timings.items()},
        "ratio_to": ours,
        "ratio": {case: t.median / timings[ours].median for case, t in timings.items()},
        "peak_memory_bytes": memory,
        "joules": energy,
    }


def panel(result: dict) -> plots.Bars:
    adam = " with Adam" if result["with_adam"] else ""
    step = "forward" if result["forward_only"] else "training step"
    return plots.Bars(
        f"{result['shape']}, density {result['density']:g}: {step}{adam}",
        f"times as long as {result['ratio_to']}",
        result["ratio"],
        result["ratio_to"],
        {case: f"  ({harness.ms(t['median_s'])} ms)" for case, t in result["timings"].items()},
    )


def peer_versions() -> dict[str, str]:
    installed = {}
    for package in peers.PACKAGES:
        try:
            installed[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return installed


def main() -> None:
    parser = harness.argument_parser(__doc__, "throughput-cpu.json", devices=("cpu", "cuda"))
    parser.add_argument("--shapes", nargs="+", default=[s for s in SHAPES if s != SMOKE], choices=list(SHAPES))
    parser.add_argument("--rounds", type=int, help="default 11, at 58500-2048-196 3")
    parser.add_argument("--forward", action="store_true", help="forward alone, in place of a training step")
    parser.add_argument("--all-peers", action="store_true", help="the libraries at 58500-2048-196 too")
    arguments = parser.parse_args()
    machine = harness.machine_peaks(arguments.quick_peaks, arguments.device)
    results = [measure(name, density, arguments) for name in arguments.shapes for density in SHAPES[name].densities]
    harness.write_results(arguments, "throughput", machine, results, [panel(result) for result in results])


if __name__ == "__main__":
    main()
