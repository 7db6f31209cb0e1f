"""Sharded checkpoints by torch.distributed.checkpoint: each rank writes what it holds, any number of ranks reads it.

A checkpoint is a folder ``step-000000000042``, written under another name, brought to disk and renamed when all ranks
have written: whatever is killed when, a folder of that name is complete. It holds torch.distributed.checkpoint's files
and ``info.json``. The files' index is pickled, by torch: load only what you trust.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import torch
import torch._dynamo  # else by the first DTensor: errors caught in that import keep its callers' frames, and the group
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.filesystem import FileSystemReader
from torch.distributed.checkpoint.state_dict_loader import load as dcp_load
from torch.distributed.checkpoint.state_dict_saver import save as dcp_save
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor, Shard

from spikefuse._io import folders
from spikefuse._io.atomic_write import sync_folder, write_atomically
from spikefuse.distributed.layers import NeuronParallelLIFLinear
from spikefuse.distributed.ranks import Group, own_slice, peer_errors, rank_and_size

_NAME: Final = "step-{:012d}"
_INFO: Final = "info.json"


def sharded(own: Tensor, neurons: int, group: Group = None) -> Tensor:
    """A tensor of which this rank has the rows of its neurons, as torch.distributed.checkpoint wants to see it.

    Args:
        own: ``[own neurons, ...]``; the result shares its memory.
        neurons: of the whole layer.
        group: the ranks.

    Returns:
        A DTensor ``[neurons, ...]`` with placement ``Shard(0)``; ``own`` itself where there is one rank.

    Raises:
        ValueError: ``own`` has another number of rows than :func:`spikefuse.distributed.neuron_slice` gives this rank.

    Example:
        >>> sharded(torch.zeros(4, 3), 4).shape
        torch.Size([4, 3])
    """
    expected = own_slice(neurons, group)
    if own.dim() == 0 or len(own) != expected.stop - expected.start:
        raise ValueError(
            f"sharded: expected {expected.stop - expected.start} rows, this rank's of {neurons}, got {list(own.shape)}"
        )
    if rank_and_size(group)[1] == 1:
        return own.detach()
    mesh = DeviceMesh.from_group(group or dist.group.WORLD, own.device.type)  # type: ignore[arg-type]
    shape = torch.Size((neurons, *own.shape[1:]))
    stride = torch.empty(shape, device="meta").stride()
    if own.dim() == 2 and own.stride(0) == 1:
        stride = (1, neurons)
    return DTensor.from_local(own.detach(), mesh, [Shard(0)], shape=shape, stride=stride)


def online_state(weights: Sequence[Tensor], group: Group = None) -> dict[str, Tensor]:
    """A network of :func:`spikefuse.distributed.online_batch_` for :func:`save` and :func:`load_`.

    Args:
        weights: as :func:`spikefuse.distributed.shard` gave them, at least two layers.
        group: the ranks.

    Raises:
        ValueError: weights that are not this rank's.

    Example:
        >>> sorted(online_state([torch.rand(4, 8), torch.rand(8, 4)]))
        ['weights.0', 'weights.1']
    """
    first, *others = (w.detach() for w in weights)
    named = {f"weights.{i + 1}": w for i, w in enumerate(others)}
    return {"weights.0": sharded(first, others[0].shape[1] if others else len(first), group), **named}


def module_state(module: nn.Module, optimizer: torch.optim.Optimizer | None = None) -> dict[str, Tensor]:
    """A module with :class:`spikefuse.distributed.NeuronParallelLIFLinear` in it, for :func:`save` and :func:`load_`.

    Args:
        module: its parameters and buffers, which the result shares memory with.
        optimizer: also its tensors of each parameter, such as Adam's moments. One that has not stepped yet is given
            them here, as zeros, so that a checkpoint can be loaded into them; it needs learning rates that are numbers.

    Example:
        >>> sorted(module_state(NeuronParallelLIFLinear(8, 4, bias=True, leak=0.1)))
        ['bias', 'weight']
    """
    spread: dict[int, tuple[int, Group]] = {}
    for part in module.modules():
        if isinstance(part, NeuronParallelLIFLinear):
            for own in (*part.parameters(), *part.buffers()):
                if own.dim() > 0:
                    spread[id(own)] = (part.all_neurons, part.group)

    def entry(owner: Tensor, value: Tensor) -> Tensor:
        if id(owner) in spread and value.shape == owner.shape:
            return sharded(value, *spread[id(owner)])
        return value.detach()

    named: dict[str, Tensor] = {**dict(module.named_parameters()), **dict(module.named_buffers())}
    state = {name: entry(value, value) for name, value in named.items()}
    if optimizer is not None:
        if not optimizer.state:
            _make_optimizer_state(optimizer)
        for name, value in named.items():
            for key, moment in optimizer.state.get(value, {}).items():
                if isinstance(moment, Tensor):
                    state[f"optimizer.{name}.{key}"] = entry(value, moment)
    return state


def _make_optimizer_state(optimizer: torch.optim.Optimizer) -> None:
    """Lets an optimizer make its state by a step that changes no parameter, and sets it back to zero."""
    parameters = [p for g in optimizer.param_groups for p in g["params"]]
    grads, rates = [p.grad for p in parameters], [g["lr"] for g in optimizer.param_groups]
    for parameter in parameters:
        parameter.grad = torch.zeros_like(parameter)
    for group in optimizer.param_groups:
        group["lr"] = 0.0
    optimizer.step()
    for state in optimizer.state.values():
        for value in state.values():
            if isinstance(value, Tensor):
                value.zero_()
    for parameter, grad in zip(parameters, grads, strict=True):
        parameter.grad = grad
    for group, rate in zip(optimizer.param_groups, rates, strict=True):
        group["lr"] = rate


def save(
    folder: str | Path,
    step: int,
    state: Mapping[str, Tensor],
    info: Mapping[str, Any] | None = None,
    *,
    keep: int = 2,
    group: Group = None,
) -> Path:
    """Writes a checkpoint, all ranks together; those before it stay complete until it is.

    Args:
        folder: of all checkpoints of a run, seen by all ranks.
        step: its number, >= 0; such as batches done.
        state: tensors by name; those that :func:`sharded` made are written by the ranks that hold them, the others,
            which are the same on all ranks, by one of them.
        info: plain values to keep with it, for JSON; rank 0's.
        keep: complete checkpoints to leave, this one included, >= 1; older ones are removed.
        group: the ranks.

    Returns:
        The checkpoint's folder.

    Raises:
        FileExistsError: there is a complete checkpoint of that step.
        OSError: it cannot be written; those before it are untouched.
        TypeError: ``info`` holds something that JSON cannot.
        PeerError: another rank is lost.
        ValueError: a number outside its range.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = save(folder, 42, {"weight": torch.ones(2, 2)}, {"seed": 0})
        ...     weight = torch.zeros(2, 2)
        ...     info = load_(latest(folder), {"weight": weight})
        >>> path.name, weight.sum().item(), info
        ('step-000000000042', 4.0, {'seed': 0})
    """
    if step < 0 or keep < 1:
        raise ValueError(f"save: expected step >= 0 and keep >= 1, got {step} and {keep}")
    folder = Path(folder)
    path = folder / _NAME.format(step)
    partial = folder / f"{path.name}.partial"

    def begin() -> None:
        if folders.exists(path):
            raise FileExistsError(f"save: {path} is a complete checkpoint already")
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        write_atomically(partial / _INFO, json.dumps(dict(info or {}), allow_nan=False).encode())

    def finish() -> None:
        sync_folder(partial)
        os.rename(partial, path)
        sync_folder(folder)
        for old in _complete(folder, only_readable=True)[:-keep]:
            shutil.rmtree(old, ignore_errors=True)

    _first_rank_does(begin, "beginning a checkpoint", group)
    try:
        with peer_errors("writing a checkpoint", group), _without_group_allowed():
            dcp_save(dict(state), checkpoint_id=partial, process_group=group, no_dist=rank_and_size(group)[1] == 1)
    except CheckpointException as error:
        raise OSError(f"save: {path} cannot be written: {_reasons(error)}") from error
    # Nobody goes on, and may be asked for this checkpoint, before it is there.
    _first_rank_does(finish, "finishing a checkpoint", group)
    return path


def latest(folder: str | Path) -> Path | None:
    """The last complete checkpoint of a run, or None.

    Args:
        folder: as given to :func:`save`; need not exist.

    Raises:
        OSError: the folder or a checkpoint in it may not be read, or is a link to a path that does not exist. A run
            that took it for absent would begin anew.

    >>> latest("/nowhere") is None
    True
    """
    complete = _complete(Path(folder))
    return complete[-1] if complete else None


def step_of(path: str | Path) -> int:
    """The number of a checkpoint.

    Raises:
        ValueError: not the name of one.

    >>> step_of("runs/step-000000000042")
    42
    """
    found = re.fullmatch(r"step-(\d{12})", Path(path).name)
    if found is None:
        raise ValueError(f"step_of: expected a folder named step-<12 digits>, got {str(path)!r}")
    return int(found[1])


def load_(path: str | Path, state: Mapping[str, Tensor], group: Group = None) -> dict[str, Any]:
    """Fills tensors from a checkpoint, written by any number of ranks, all ranks together.

    Args:
        path: from :func:`latest`.
        state: as for :func:`save`, with the ranks that there are now; filled in place.
        group: the ranks.

    Returns:
        The ``info`` that :func:`save` was given.

    Raises:
        FileNotFoundError: no complete checkpoint.
        OSError: it cannot be read.
        KeyError: a name that the checkpoint does not have.
        ValueError: a tensor of another shape.
        PeerError: another rank is lost.
    """
    path = Path(path)
    if not folders.exists(path / _INFO):
        raise FileNotFoundError(f"load_: {path} is no complete checkpoint")
    stored = FileSystemReader(path).read_metadata().state_dict_metadata
    for name, tensor in state.items():
        if name not in stored:
            raise KeyError(f"load_: {path} has no {name}; it has {', '.join(sorted(stored))}")
        size = list(getattr(stored[name], "size", ()))
        if size != list(tensor.shape):
            raise ValueError(f"load_: expected {name} of shape {size}, as {path} has it, got {list(tensor.shape)}")
    try:
        with peer_errors("reading a checkpoint", group), _without_group_allowed():
            dcp_load(dict(state), checkpoint_id=path, process_group=group, no_dist=rank_and_size(group)[1] == 1)
    except CheckpointException as error:
        raise OSError(f"load_: {path} cannot be read: {_reasons(error)}") from error
    return dict(json.loads((path / _INFO).read_bytes()))


def _reasons(error: CheckpointException) -> str:
    """Joins the errors of the ranks; torch wraps them in one that is no Exception."""
    return "; ".join(f"rank {rank}: {wrapped[0]}" for rank, wrapped in error.failures.items())


def _complete(folder: Path, *, only_readable: bool = False) -> list[Path]:
    """Complete checkpoints, the last one last; one that cannot be looked at is an error unless left out."""
    found = []
    for path in folders.entries(folder) if folders.exists(folder) else []:
        with contextlib.suppress(OSError) if only_readable else contextlib.nullcontext():
            if re.fullmatch(r"step-\d{12}", path.name) and folders.exists(path / _INFO):
                found.append(path)
    return found


def _first_rank_does(action: Callable[[], None], what: str, group: Group) -> None:
    """All ranks wait for what rank 0 does, and raise what it raises."""
    rank, ranks = rank_and_size(group)
    outcome: list[Exception | None] = [None]
    if rank == 0:
        try:
            action()
        except Exception as error:
            outcome = [error]
    if ranks > 1:
        with peer_errors(what, group):
            dist.broadcast_object_list(outcome, src=dist.get_global_rank(group or dist.group.WORLD, 0), group=group)  # type: ignore[arg-type]
    if outcome[0] is not None:
        raise outcome[0]


@contextlib.contextmanager
def _without_group_allowed() -> Iterator[None]:
    """One rank needs no process group, which torch would warn of."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="torch.distributed is disabled, unavailable or uninitialized")
        yield
