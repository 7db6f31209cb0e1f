"""The entries on images: F3 to F7. Cases of the text's reading are named "gated ...", of the code's "shared ..."."""

from __future__ import annotations

import itertools
from typing import Final

from spikefuse.paper.experiments import claims
from spikefuse.paper.experiments.cases import ERROR, READINGS, Case, Chart, Entry, Jobs
from spikefuse.paper.experiments.claims import Claim, Comparison

_SPIKE_ERROR: Final = "Spike-MSE (1 = silent net)"
_LEAKS: Final = (0.0, 0.01, 0.1, 0.3, 0.5, 0.9)
_ANN_NOTE: Final = (
    "The text's learning rate of 0.1 is given beside ones at which this initialisation learns (Adam 0.001, SGD 0.01)."
)


def f3(make: Jobs) -> Entry:
    """The entry F3."""
    cases = [Case(f"{r}, leak {leak:g}", make.mnist(r, leak=leak), leak) for r in READINGS for leak in _LEAKS]
    charts, said = [], []
    for r in READINGS:
        names = tuple(case.name for case in cases if case.name.startswith(r))
        charts.append(Chart("curve", f"AE-SNN on MNIST, {r} trace: training", names, "training batch", _SPIKE_ERROR))
        best = f"{r}, leak 0.1"
        said += [
            Claim(
                "Leak 0.1 has the lowest Spike-MSE of all leaks, on training and on test images.",
                r,
                tuple(
                    c
                    for measure in ("train.spike_mse", "test.spike_mse")
                    for c in claims.lowest(best, [name for name in names if name != best], measure)
                ),
            ),
            Claim(
                "A small leak does better than none; too high a leak degrades the net.",
                r,
                (
                    claims.lower(best, f"{r}, leak 0", "test.spike_mse"),
                    claims.lower(best, f"{r}, leak 0.9", "test.spike_mse"),
                ),
            ),
            Claim(
                "Without a leak the net underfits: training images do worse than test images.",
                r,
                (_split_gap(f"{r}, leak 0"),),
            ),
            Claim("At leak 0.1 the MSE against pixels is higher than the Spike-MSE.", r, (_pixels_above_spikes(best),)),
        ]
    groups = tuple((r, tuple(case.name for case in cases if case.name.startswith(r))) for r in READINGS)
    for measure, label in (("test.spike_mse", _SPIKE_ERROR), ("test.mse", ERROR)):
        charts.append(Chart("lines", "After training, test images", (), "leak per step", label, measure, groups))
    return Entry(
        "F3", "AE-SNN on MNIST: which leak?", "784-196-784, T 15, one epoch.", tuple(cases), tuple(charts), tuple(said)
    )


def f4(make: Jobs) -> Entry:
    """The entry F4."""
    steps = (5, 15, 30, 60)
    cases, charts, said = [], [], []
    for r in READINGS:
        cases += [Case(f"{r}, T {t}", make.mnist(r, steps=t), t) for t in steps]
        cases.append(Case(f"{r}, no mask", make.mnist(r, mask=False)))
        pair = (f"{r}, T 15", f"{r}, no mask")
        charts.append(Chart("curve", f"With and without the mask, {r} trace", pair, "training batch", _SPIKE_ERROR))
        said += [
            Claim(
                "Without the mask the net does not train: it stays near or above a silent net's error of 1.",
                r,
                (claims.lower(pair[0], pair[1], "test.spike_mse"), claims.between(pair[1], 0.9, 4, "test.spike_mse")),
            ),
            Claim(
                "With the mask close to 85 % of E are zeros (here: 80 to 90 %), without it less than 5 %.",
                r,
                (
                    claims.between(pair[0], 0.80, 0.90, "training.error_zeros"),
                    claims.between(pair[1], 0.0, 0.05, "training.error_zeros"),
                ),
            ),
            Claim(
                "Longer input spike trains give a lower MSE.",
                r,
                tuple(claims.lower(f"{r}, T {b}", f"{r}, T {a}", "test.mse") for a, b in itertools.pairwise(steps)),
            ),
        ]
    groups = tuple((r, tuple(f"{r}, T {t}" for t in steps)) for r in READINGS)
    charts.append(
        Chart("lines", "Duration of the input spikes, test images", (), "T (time steps)", ERROR, groups=groups)
    )
    return Entry(
        "F4",
        "The mask, and the number of time steps",
        "784-196-784, leak 0.1.",
        tuple(cases),
        tuple(charts),
        tuple(said),
    )


_F5_ANN: Final = (("adam", 1e-3), ("sgd", 1e-2), ("adam", 0.1), ("sgd", 0.1))


def _ann_name(optimizer: str, lr: float) -> str:
    return f"ANN, {'Adam' if optimizer == 'adam' else 'SGD'}, lr {lr:g}"


def f5(make: Jobs) -> Entry:
    """The entry F5."""
    cases = [Case(f"SNN {r}", make.mnist(r)) for r in READINGS]
    cases += [Case(_ann_name(o, lr), make.ann("mnist", o, lr)) for o, lr in _F5_ANN]
    names = tuple(case.name for case in cases)
    said = []
    for r in READINGS:
        said.append(
            Claim(
                "On MNIST the AE-SNN is better than the AE-ANN trained without Adam, and worse than with it.",
                r,
                (
                    claims.lower(f"SNN {r}", "ANN, SGD, lr 0.01", "test.mse"),
                    claims.lower("ANN, Adam, lr 0.001", f"SNN {r}", "test.mse"),
                ),
            )
        )
    charts = (
        Chart("bars", "MNIST, 784-196-784, after one epoch", names, f"test {ERROR}"),
        Chart("pictures", "Test images", names[:3]),
    )
    return Entry("F5", "AE-SNN against AE-ANN on MNIST", _ANN_NOTE, tuple(cases), charts, tuple(said))


def f6(make: Jobs) -> Entry:
    """The entry F6."""
    cases, said = [], []
    for hidden in (512, 1024):
        cases += [Case(f"SNN-{hidden} {r}", make.fashion(r, hidden=hidden)) for r in READINGS]
        anns = [Case(f"ANN-{hidden} {o}", make.ann("fashion-mnist", o, 5e-3, hidden)) for o in ("adam", "sgd")]
        cases += anns
        for r in READINGS:
            said.append(
                Claim(
                    f"On Fashion-MNIST the AE-SNN-{hidden} is better than the AE-ANN-{hidden}, with and without Adam.",
                    r,
                    claims.lowest(f"SNN-{hidden} {r}", [case.name for case in anns], "test.mse"),
                )
            )
    names = tuple(case.name for case in cases)
    charts = (
        Chart("bars", "Fashion-MNIST, T 60, after one epoch", names, f"test {ERROR}"),
        Chart("pictures", "Test images", tuple(f"SNN-1024 {r}" for r in READINGS)),
    )
    return Entry("F6", "AE-SNN against AE-ANN on Fashion-MNIST", "ANN: lr 5e-3.", tuple(cases), charts, tuple(said))


def f7(make: Jobs) -> Entry:
    """The entry F7."""
    sizes, steps, rates = (64, 196, 400), (5, 10, 15, 30, 60), (1e-3, 5e-3, 1e-2)
    cases, said = [], []
    anns = [Case(f"ANN-1024, Adam, lr {lr:g}", make.ann("fashion-mnist", "adam", lr, 1024)) for lr in rates]
    for r in READINGS:
        cases += [Case(f"{r}, {h} hidden", make.mnist(r, hidden=h), h) for h in sizes]
        cases += [Case(f"{r}, Fashion, T {t}", make.fashion(r, steps=t), t) for t in steps]
        hidden, fashion = [f"{r}, {h} hidden" for h in sizes], f"{r}, Fashion, T 60"
        said += [
            Claim(
                "More hidden neurons do better, and the step from 64 to 196 gains more than that from 196 to 400.",
                r,
                (
                    claims.lower(hidden[1], hidden[0], "test.mse"),
                    claims.lower(hidden[2], hidden[1], "test.mse"),
                    claims.larger_gain((hidden[0], hidden[1]), (hidden[1], hidden[2]), "test.mse"),
                ),
            ),
            Claim(
                "On Fashion-MNIST the AE-SNN at T 60 is better than the AE-ANN at every learning rate.",
                r,
                claims.lowest(fashion, [case.name for case in anns], "test.mse"),
            ),
            Claim(
                "At T 5 and 10 the AE-SNN is worse than the AE-ANN (Adam, lr 5e-3).",
                r,
                tuple(claims.lower(anns[1].name, f"{r}, Fashion, T {t}", "test.mse") for t in (5, 10)),
            ),
        ]
    charts = (
        Chart(
            "lines", "Hidden neurons, MNIST", (), "hidden neurons", f"test {ERROR}",
            groups=tuple((r, tuple(f"{r}, {h} hidden" for h in sizes)) for r in READINGS),
        ),
        Chart(
            "lines", "Time steps, Fashion-MNIST, 1024 hidden", (), "T (time steps)", f"test {ERROR}",
            groups=tuple((r, tuple(f"{r}, Fashion, T {t}" for t in steps)) for r in READINGS),
        ),
        Chart(
            "bars", "AE-ANN's learning rate, Fashion-MNIST",
            (*(case.name for case in anns), *(f"{r}, Fashion, T 60" for r in READINGS)), f"test {ERROR}",
        ),
    )  # fmt: skip
    return Entry("F7", "Size, learning rate and time steps", "", (*cases, *anns), charts, tuple(said))


def _split_gap(case: str) -> Comparison:
    return Comparison(
        f"spike_mse of {case} on training images above that on test images",
        lambda of: [a - b for a, b in zip(of(case, "train.spike_mse"), of(case, "test.spike_mse"), strict=True)],
    )


def _pixels_above_spikes(case: str) -> Comparison:
    return Comparison(
        f"test.mse of {case} above its test.spike_mse",
        lambda of: [a - b for a, b in zip(of(case, "test.mse"), of(case, "test.spike_mse"), strict=True)],
    )
