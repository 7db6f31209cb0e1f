"""Judges the paper's claims by results: each claim is a set of margins, positive if the results confirm it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

Lookup = Callable[[str, str], list[float]]
"""Values of a case's measure, such as ("shared leak 0.1", "test.spike_mse"), one for each seed."""


@dataclasses.dataclass(frozen=True)
class Comparison:
    """One relation that a claim asserts.

    Attributes:
        says: the relation in words.
        margins: by how much it holds in each seed, > 0 where it does.
        inclusive: whether it also holds where the margin is 0.
    """

    says: str
    margins: Callable[[Lookup], list[float]]
    inclusive: bool = False

    def holds(self, margin: float) -> bool:
        """True if the margin confirms the claim."""
        return margin > 0 or (self.inclusive and margin == 0)


@dataclasses.dataclass(frozen=True)
class Claim:
    """A claim of the paper, or one of ours beyond it.

    Attributes:
        text: in our words.
        reading: such as "shared" or "gated"; empty where the claim is of neither.
        comparisons: all of which must hold.
    """

    text: str
    reading: str
    comparisons: tuple[Comparison, ...]


@dataclasses.dataclass(frozen=True)
class Verdict:
    """The verdict on a claim.

    Attributes:
        outcome: "confirmed" (in every seed), "in some seeds" (on average, but not in each), or "not confirmed".
        details: one line for each comparison: by how much, over how many seeds.
    """

    outcome: str
    details: tuple[str, ...]


def lower(better: str, worse: str, measure: str) -> Comparison:
    """A case has the lower measure.

    >>> values = {"a": [0.2, 0.3], "b": [0.5, 0.25]}
    >>> [round(m, 2) for m in lower("a", "b", "test.mse").margins(lambda case, measure: values[case])]
    [0.3, -0.05]
    """
    return Comparison(
        f"{measure} of {better} below that of {worse}",
        lambda of: [b - a for a, b in zip(of(better, measure), of(worse, measure), strict=True)],
    )


def higher(better: str, worse: str, measure: str) -> Comparison:
    """A case has the higher measure.

    >>> higher("a", "b", "test.recognised").margins(lambda case, measure: [0.75] if case == "a" else [0.5])
    [0.25]
    """
    return Comparison(
        f"{measure} of {better} above that of {worse}",
        lambda of: [a - b for a, b in zip(of(better, measure), of(worse, measure), strict=True)],
    )


def lowest(best: str, others: Sequence[str], measure: str) -> tuple[Comparison, ...]:
    """A case has the lowest measure of all.

    >>> len(lowest("a", ["b", "c"], "test.mse"))
    2
    """
    return tuple(lower(best, other, measure) for other in others)


def between(value: str, low: float, high: float, measure: str) -> Comparison:
    """A measure lies in a range, ends included; the margin is the distance to its nearer end.

    >>> between("a", 0.0, 1.0, "x").margins(lambda case, measure: [0.25, 2.0])
    [0.25, -1.0]
    """
    return Comparison(
        f"{measure} of {value} from {low:g} to {high:g}",
        lambda of: [min(v - low, high - v) for v in of(value, measure)],
        inclusive=True,
    )


def at_least(case: str, least: float, measure: str) -> Comparison:
    """A measure reaches a value.

    >>> half = at_least("a", 0.5, "test.recognised")
    >>> half.margins(lambda case, measure: [0.75, 0.25])
    [0.25, -0.25]
    >>> half.holds(0.0), lower("a", "b", "test.mse").holds(0.0)
    (True, False)
    """
    return Comparison(
        f"{measure} of {case} at least {least:g}",
        lambda of: [v - least for v in of(case, measure)],
        inclusive=True,
    )


def near(case: str, other: str, measure: str, share: float) -> Comparison:
    """A case is worse than another by no more than a share of the other's measure.

    >>> near("a", "b", "x", 0.1).margins(lambda case, measure: [1.05] if case == "a" else [1.0])[0] > 0
    True
    """
    return Comparison(
        f"{measure} of {case} at most {share:.0%} above that of {other}",
        lambda of: [(1 + share) * b - a for a, b in zip(of(case, measure), of(other, measure), strict=True)],
        inclusive=True,
    )


def larger_gain(first: tuple[str, str], second: tuple[str, str], measure: str) -> Comparison:
    """From one case to the next, a measure falls by more in the first pair than in the second.

    >>> values = {"a": [1.0], "b": [0.5], "c": [0.4]}
    >>> larger_gain(("a", "b"), ("b", "c"), "x").margins(lambda case, measure: values[case])
    [0.4]
    """

    def margins(of: Lookup) -> list[float]:
        columns = [of(case, measure) for case in (*first, *second)]
        return [(a - b) - (c - d) for a, b, c, d in zip(*columns, strict=True)]

    return Comparison(
        f"{measure} falls by more from {first[0]} to {first[1]} than from {second[0]} to {second[1]}", margins
    )


def judge(claim: Claim, of: Lookup) -> Verdict:
    """Judges a claim by results.

    Args:
        claim: to judge.
        of: the results.

    >>> values = {"a": [0.2, 0.3], "b": [0.5, 0.25]}
    >>> judge(Claim("", "", (lower("a", "b", "mse"),)), lambda case, measure: values[case])
    Verdict(outcome='in some seeds', details=('mse of a below that of b: margin +0.125, in 1 of 2 seeds',))
    """
    details, outcomes = [], []
    for comparison in claim.comparisons:
        margins = comparison.margins(of)
        held = sum(comparison.holds(margin) for margin in margins)
        mean = sum(margins) / len(margins)
        outcomes.append(comparison.holds(mean) + (held == len(margins)))
        details.append(f"{comparison.says}: margin {mean:+.3f}, in {held} of {len(margins)} seeds")
    names = ("not confirmed", "in some seeds", "confirmed")
    return Verdict(names[min(outcomes)], tuple(details))
