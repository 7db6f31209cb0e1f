"""Cochleagrams on disk, one file each, found by a hash of what they were computed from."""

from __future__ import annotations

import io
import zipfile
from os import PathLike
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from spikefuse._io.atomic_write import write_atomically


class CochleagramCache:
    """A folder of cochleagrams, made when the first one is written.

    Files are written atomically and hold a checksum, so a reader finds a whole entry or none.

    Args:
        folder: where; several processes may share it.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     cache = CochleagramCache(folder)
        ...     cache.put("0" * 64, np.ones((2, 3), np.float32))
        ...     cache.get("0" * 64, 3).shape, cache.get("1" * 64, 3)
        ((2, 3), None)
    """

    def __init__(self, folder: str | PathLike[str]) -> None:
        self.folder = Path(folder).expanduser().absolute()

    def path(self, key: str) -> Path:
        """Where the entry of a key is, or would be."""
        return self.folder / key[:2] / f"{key}.npz"

    def get(self, key: str, channels: int) -> NDArray[np.float32] | None:
        """The entry of a key, float32 ``[frames, channels]``, or None where there is none.

        Raises:
            ValueError: the entry is damaged. It is never replaced unasked.
            OSError: it cannot be read.
        """
        path = self.path(key)
        try:
            content = path.read_bytes()
        except FileNotFoundError:
            return None
        try:
            with np.load(io.BytesIO(content), allow_pickle=False) as archive:
                entry: NDArray[np.float32] = archive["cochleagram"]
        except (ValueError, KeyError, EOFError, OSError, zipfile.BadZipFile) as error:
            raise ValueError(
                f"cochleagram cache: {path} is damaged ({error}); delete it to compute it again"
            ) from error
        if entry.dtype != np.float32 or entry.ndim != 2 or entry.shape[1] != channels:
            raise ValueError(
                f"cochleagram cache: {path}: expected float32 [frames, {channels}], got {entry.dtype} "
                f"{list(entry.shape)}; delete it to compute it again"
            )
        return entry

    def put(self, key: str, cochleagram: NDArray[np.float32]) -> None:
        """Writes the entry of a key.

        Raises:
            OSError: the folder cannot be made or written to, or the disk is full.
        """
        buffer = io.BytesIO()
        np.savez(buffer, cochleagram=cochleagram)
        write_atomically(self.path(key), buffer.getvalue())
