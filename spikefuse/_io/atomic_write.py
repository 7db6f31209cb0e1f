"""Files that are either the old ones or the new ones, whole, whenever the process or the machine stops."""

from __future__ import annotations

import contextlib
import os
import secrets
from pathlib import Path


def write_atomically(path: str | Path, content: bytes) -> Path:
    """Writes a file so that a reader, or a crash at any moment, finds the old content or the new one and nothing else.

    A temporary file in the same folder is written, brought to disk, and renamed over ``path``; folders are made.

    Args:
        path: where to write.
        content: all of the new content.

    Returns:
        ``path``.

    Raises:
        OSError: the folder cannot be made or written to, or the disk is full; what was at ``path`` is untouched.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     write_atomically(Path(folder) / "runs" / "note.txt", b"done").read_bytes()
        b'done'
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(6)}.tmp")
    try:
        with temporary.open("xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException as error:
        with contextlib.suppress(OSError):
            temporary.unlink()
        if isinstance(error, OSError):
            # Of the file that was asked for, not of the temporary one.
            raise type(error)(error.errno, error.strerror, str(path)) from error
        raise
    sync_folder(path.parent)
    return path


def sync_folder(folder: Path) -> None:
    """Brings the rename itself to disk, where the system lets a folder be opened."""
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except OSError:
        return
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
