"""One safetensors file with a JSON document in it, written whole and checked when read.

The file's metadata holds the document under the key "spikefuse"; a SHA-256 in it is over all the rest of the document
and all tensors. A file is written under another name, brought to disk and renamed. Nothing is pickled: reading one runs
no code from it.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor

from spikefuse._io import folders
from spikefuse._io.atomic_write import write_atomically
from spikefuse._io.optional import require

SUFFIX: Final = ".safetensors"

_KEY: Final = "spikefuse"
_MAX_HEADER_BYTES: Final = 100_000_000


class CheckpointError(ValueError):
    """A file is no checkpoint, or one that cannot be used.

    >>> issubclass(CheckpointError, ValueError)
    True
    """


def write(path: str | Path, document: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Path:
    """Writes a document and tensors, atomically: at any moment ``path`` holds the old file or the new one.

    Args:
        path: usually ends in ".safetensors".
        document: plain values, for JSON; "format" and "version" say what the file is.
        tensors: by name.

    Returns:
        ``path``.

    Raises:
        ImportError: safetensors is not installed.
        OSError: the file cannot be written; what was there is untouched.
        TypeError, ValueError: ``document`` holds something that JSON cannot.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = write(Path(folder) / "a.safetensors", {"format": "mine", "version": 1}, {"x": torch.ones(2)})
        ...     read(path, "mine", 1)[1]
        {'x': tensor([1., 1.])}
    """
    module = require("safetensors.torch", "safetensors", "a checkpoint")
    kept = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    whole = json.loads(json.dumps(dict(document), allow_nan=False))  # as read will see it
    whole["sha256"] = digest(whole, kept)
    return write_atomically(path, module.save(kept, {_KEY: json.dumps(whole)}))


def read(path: str | Path, kind: str, version: int) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The document and the tensors of a file that is whole and of this format and version.

    Args:
        path: written by :func:`write`.
        kind: the "format" of the document.
        version: its "version".

    Raises:
        CheckpointError: no checkpoint, cut short, damaged, or of another format or version; the message says which.
        ImportError: safetensors is not installed.
        OSError: the file cannot be read; where a link to it is broken, the message names the link and its target.
    """
    path = Path(path)
    module = require("safetensors.torch", "safetensors", "a checkpoint")
    with folders.open_file(path) as file:
        content = file.read()
    header_size = int.from_bytes(content[:8], "little")
    if len(content) < 9 or content[8:9] != b"{" or header_size > _MAX_HEADER_BYTES:
        raise CheckpointError(f"{path}: not a checkpoint: expected a safetensors file, got {len(content)} other bytes")
    if len(content) < 8 + header_size:
        raise CheckpointError(f"{path}: cut short: expected a header of {header_size} bytes, got {len(content) - 8}")
    try:
        header = json.loads(content[8 : 8 + header_size])
        metadata = header.pop("__metadata__", {})
        data_size = max((entry["data_offsets"][1] for entry in header.values()), default=0)
        document = json.loads(metadata.get(_KEY, "null"))
    except (ValueError, TypeError, KeyError, AttributeError, IndexError, RecursionError) as error:
        raise CheckpointError(f"{path}: not a checkpoint: its header cannot be read ({error})") from error
    if not isinstance(document, dict) or "format" not in document:
        raise CheckpointError(f"{path}: not a checkpoint: expected a safetensors file of spikefuse, got another one")
    if document["format"] != kind:
        raise CheckpointError(f"{path}: not a checkpoint of {kind}, but of {document['format']}")
    if document.get("version") != version:
        raise CheckpointError(
            f"{path}: expected a checkpoint of version {version}, got version {document.get('version')!r}, written by "
            f"another release of spikefuse"
        )
    if len(content) < 8 + header_size + data_size:
        raise CheckpointError(f"{path}: cut short: expected {8 + header_size + data_size} bytes, got {len(content)}")
    try:
        tensors = module.load(content)
    except Exception as error:  # SafetensorError, which is no subclass of anything more telling
        raise CheckpointError(f"{path}: a damaged checkpoint: {error}") from error
    expected = document.pop("sha256", None)
    if expected != digest(document, tensors):
        raise CheckpointError(f"{path}: a damaged checkpoint: its content does not fit its SHA-256")
    return document, tensors


@contextlib.contextmanager
def restoring(path: str | Path) -> Iterator[None]:
    """Around what is made of a file that :func:`read` took for whole: an inconsistent one is a CheckpointError.

    >>> with restoring("run.safetensors"):
    ...     {}["model"]
    Traceback (most recent call last):
        ...
    spikefuse._io.safetensors_file.CheckpointError: run.safetensors: an inconsistent checkpoint: 'model' is missing
    """
    try:
        yield
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        reason = f"{error} is missing" if isinstance(error, KeyError) else str(error)
        raise CheckpointError(f"{path}: an inconsistent checkpoint: {reason}") from error


def check_shapes(tensors: Mapping[str, Tensor], shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Checks that a file has these tensors before a model of its sizes is allocated: the sizes may be false.

    Raises:
        KeyError: one is missing.
        ValueError: one is of another shape.
    """
    for name, shape in shapes.items():
        if tuple(tensors[name].shape) != shape:
            raise ValueError(f"expected {name} of shape {list(shape)}, got {list(tensors[name].shape)}")


def under(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors whose names begin with ``prefix``, by the rest of their names.

    >>> under("a.", {"a.b": torch.ones(()), "c": torch.zeros(())})
    {'b': tensor(1.)}
    """
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}


def digest(document: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 over the document without its own digest, and over names, types, shapes and bytes of the tensors."""
    state = hashlib.sha256(json.dumps(document, sort_keys=True).encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        state.update(f"{name} {tensor.dtype} {list(tensor.shape)}".encode())
        state.update(tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return state.hexdigest()
