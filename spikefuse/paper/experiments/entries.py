"""The paper's experiments F3 to F10 and T1, and our own B1 to B3, as declarative entries.

An entry says which jobs, what to draw and what is claimed. What the text leaves open (initial weights, rates) is read
as :func:`spikefuse.paper.models.preset` says.
"""

from __future__ import annotations

from collections.abc import Sequence

from spikefuse.paper.experiments.beyond_entries import b1, b2, b3
from spikefuse.paper.experiments.cases import FULL, QUICK, Entry, Jobs, Sizes
from spikefuse.paper.experiments.image_entries import f3, f4, f5, f6, f7
from spikefuse.paper.experiments.sound_entries import f8, f10, t1

__all__ = ["FULL", "QUICK", "Entry", "Sizes", "entries", "select"]


def entries(sizes: Sizes) -> tuple[Entry, ...]:
    """All entries at given sizes.

    >>> [entry.id for entry in entries(QUICK)]
    ['F3', 'F4', 'F5', 'F6', 'F7', 'F8-9', 'F10', 'T1', 'B1', 'B2', 'B3']
    """
    make = Jobs(sizes)
    paper = (f3(make), f4(make), f5(make), f6(make), f7(make), f8(make), f10(make), t1(make))
    return (*paper, b1(make), b2(make), b3(make))


def select(all_of_them: Sequence[Entry], only: Sequence[str] | None) -> tuple[Entry, ...]:
    """The entries of these ids, in any case of letters; all where none is named.

    Args:
        all_of_them: to choose from.
        only: ids; F8 and F9 name F8-9.

    Raises:
        ValueError: an id that is none of theirs.

    >>> [entry.id for entry in select(entries(QUICK), ["f9", "T1"])]
    ['F8-9', 'T1']
    """
    if not only:
        return tuple(all_of_them)
    wanted = set()
    for name in only:
        found = {"F8": "F8-9", "F9": "F8-9"}.get(name.upper(), name.upper())
        if found not in {entry.id for entry in all_of_them}:
            allowed = ", ".join(entry.id for entry in all_of_them)
            raise ValueError(f"--only: expected one of {allowed}, got {name!r}")
        wanted.add(found)
    return tuple(entry for entry in all_of_them if entry.id in wanted)
