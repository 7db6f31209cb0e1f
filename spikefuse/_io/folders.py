"""Looks at files and folders of users: follows links, and names every path that cannot be followed or read.

``Path.exists``, ``is_file``, ``is_dir``, ``glob`` and ``rglob`` take a link to nothing, and from Python 3.14 on a
folder without permission too, for an absent file; ``rglob`` and ``os.walk`` leave out linked folders. A reader that
relies on them loses a class of recordings, or a checkpoint, without a word. The functions here raise instead.
"""

from __future__ import annotations

import errno
import io
import os
import stat
from collections.abc import Iterator
from os import PathLike
from pathlib import Path
from typing import NoReturn


def exists(path: str | PathLike[str]) -> bool:
    """Returns whether there is a file or folder at ``path``; links are followed.

    Raises:
        FileNotFoundError: ``path``, or a folder above it, is a link to a path that does not exist.
        PermissionError: a folder on the way may not be entered.
        OSError: links that lead back to themselves, or the disk cannot be read.

    Example:
        >>> exists("/"), exists("/nowhere")
        (True, False)
    """
    return _mode(Path(path)) is not None


def is_file(path: str | PathLike[str]) -> bool:
    """Returns whether ``path`` is a regular file, or a link to one. Raises what :func:`exists` raises.

    Example:
        >>> is_file("/")
        False
    """
    mode = _mode(Path(path))
    return mode is not None and stat.S_ISREG(mode)


def is_folder(path: str | PathLike[str]) -> bool:
    """Returns whether ``path`` is a folder, or a link to one. Raises what :func:`exists` raises.

    Example:
        >>> is_folder("/")
        True
    """
    mode = _mode(Path(path))
    return mode is not None and stat.S_ISDIR(mode)


def entries(folder: str | PathLike[str]) -> list[Path]:
    """Returns the paths of everything in a folder, in the order of their names.

    Raises:
        PermissionError: the folder may not be read.
        FileNotFoundError: no such folder, or a link to a path that does not exist.
        OSError: no folder, or the disk cannot be read.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     for name in ("b", "a"):
        ...         Path(folder, name).touch()
        ...     [path.name for path in entries(folder)]
        ['a', 'b']
    """
    folder = Path(folder)
    try:
        with os.scandir(folder) as found:
            names = sorted(entry.name for entry in found)
    except PermissionError as error:
        raise PermissionError(
            error.errno,
            f"this folder cannot be read ({error.strerror}); allow it with chmod u+rx, or move the folder away",
            str(folder),
        ) from error
    except FileNotFoundError:
        exists(folder)  # names the link, where one is broken
        raise
    return [folder / name for name in names]


def walk(root: str | PathLike[str], *, hidden: bool = False) -> Iterator[Path]:
    """Yields every regular file below a folder, at any depth, through links to files and to folders.

    The paths begin with ``root`` and keep the names of links. Each folder's entries come in the order of their names.
    A folder that two links lead to is visited under both names. Pipes, sockets and devices are passed over, and so is
    a ``lost+found`` without permission, which Linux makes on each disk for itself.

    Args:
        root: the folder.
        hidden: also visit files and folders whose names begin with a dot; otherwise they are passed over unseen.

    Raises:
        FileNotFoundError: a link to a path that does not exist; the message names both.
        PermissionError: a folder that may not be read or entered.
        OSError: a link that leads back to a folder it lies in, so that the walk would not end; the message names both.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     Path(folder, "disk", "yes").mkdir(parents=True)
        ...     Path(folder, "disk", "yes", "1.wav").touch()
        ...     Path(folder, "set").mkdir()
        ...     Path(folder, "set", "yes").symlink_to(Path(folder, "disk", "yes"))
        ...     [path.relative_to(folder).as_posix() for path in walk(Path(folder, "set"))]
        ['set/yes/1.wav']
    """
    root = Path(root)
    yield from _walk(root, hidden, (Path(os.path.realpath(root)),))


def open_file(path: str | PathLike[str]) -> io.BufferedReader:
    """Opens a file to read its bytes.

    Raises:
        FileNotFoundError: no such file; where a link on the way is broken, the message names it and its target.
        OSError: the file cannot be read; the message names it.

    Example:
        >>> with open_file(__file__) as file:
        ...     file.read(3)
        b'\"\"\"'
    """
    try:
        return open(path, "rb")
    except FileNotFoundError:
        exists(path)  # names the link, where one is broken
        raise


def check_readable(path: str | PathLike[str]) -> None:
    """Checks that a file may be read, without reading it.

    Raises:
        PermissionError: it may not; the message names it.

    Example:
        >>> check_readable(__file__)
    """
    try:
        # Only where the system says no, which it may do wrongly on network disks, is the file opened.
        if not _may(path, os.R_OK):
            open_file(path).close()
    except PermissionError as error:
        raise PermissionError(
            error.errno,
            f"this file cannot be read ({error.strerror}); allow it with chmod u+r, or move the file away",
            os.fspath(path),
        ) from error


def _walk(folder: Path, hidden: bool, above: tuple[Path, ...]) -> Iterator[Path]:
    """Walks one folder; ``above`` are the real paths of the folders on the way to it, its own last."""
    for path in entries(folder):
        if path.name.startswith(".") and not hidden:
            continue
        mode = _mode(path)
        if mode is None:
            continue  # removed since the folder was listed
        if stat.S_ISREG(mode):
            yield path
        elif stat.S_ISDIR(mode):
            if path.name == "lost+found" and not _may(path, os.R_OK | os.X_OK):
                continue
            real = above[-1] / path.name
            if os.path.islink(path):
                real = Path(os.path.realpath(path))
                if any(real == other or real in other.parents for other in above):
                    raise OSError(
                        errno.ELOOP,
                        "a link that leads back to a folder it lies in; remove the link",
                        str(path),
                        None,
                        str(real),
                    )
            yield from _walk(path, hidden, (*above, real))


def _mode(path: Path) -> int | None:
    """Type and permissions of the file or folder at ``path``, links followed; None where there is nothing."""
    try:
        return os.stat(path).st_mode
    except (FileNotFoundError, NotADirectoryError):
        for part in (path, *path.parents):
            if os.path.islink(part) and not os.path.exists(part):
                _broken(part, errno.ENOENT, "a link to a path that does not exist; put it back or remove the link")
        return None
    except PermissionError as error:
        raise PermissionError(
            error.errno,
            f"this path cannot be looked at ({error.strerror}); allow every folder on the way with chmod u+rx",
            str(path),
            None,
            os.path.realpath(path) if os.path.islink(path) else None,
        ) from error
    except OSError as error:
        if error.errno == errno.ELOOP and os.path.islink(path):
            _broken(path, errno.ELOOP, "a link that leads back to itself; remove the link")
        raise


def _may(path: str | PathLike[str], access: int) -> bool:
    """True if this process, as the user it acts for, has the permission."""
    return os.access(path, access, effective_ids=os.access in os.supports_effective_ids)


def _broken(link: Path, number: int, reason: str) -> NoReturn:
    raise OSError(number, reason, str(link), None, os.readlink(link))
