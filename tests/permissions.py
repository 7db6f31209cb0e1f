"""Paths without permission, for the tests of readers: also for root, whom permission bits do not stop otherwise."""

from __future__ import annotations

import contextlib
import ctypes
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

# linux/capability.h
_VERSION = 0x20080522
_DAC_OVERRIDE, _DAC_READ_SEARCH = 1, 2


@contextlib.contextmanager
def forbidden(path: Path, mode: int = 0) -> Iterator[None]:
    """Takes the permission to read and to enter ``path`` away."""
    before = path.stat().st_mode
    path.chmod(mode)
    try:
        with _bits_bind():
            yield
    finally:
        path.chmod(before)


@contextlib.contextmanager
def _bits_bind() -> Iterator[None]:
    """Lets permission bits bind this thread."""
    if os.geteuid() != 0:
        yield
        return
    if sys.platform != "linux":
        pytest.skip("root may read everything")
    libc = ctypes.CDLL(None, use_errno=True)
    header = (ctypes.c_uint32 * 2)(_VERSION, 0)
    sets = (ctypes.c_uint32 * 6)()
    before = (ctypes.c_uint32 * 6)()
    if libc.capget(header, sets) or libc.capget(header, before):
        raise OSError(ctypes.get_errno(), "capget")
    sets[0] &= ~(1 << _DAC_OVERRIDE | 1 << _DAC_READ_SEARCH)
    if libc.capset(header, sets):
        raise OSError(ctypes.get_errno(), "capset")
    try:
        yield
    finally:
        libc.capset(header, before)
