"""The end of a process group, before the interpreter's."""

from __future__ import annotations

import gc
import sys
import types
import warnings

import torch.distributed as dist
from torch.distributed.device_mesh import DeviceMesh

from spikefuse.distributed.ranks import Group, peer_errors, rank_and_size


def shutdown(group: Group = None, *, wait: bool = True) -> None:
    """Ends a process group and the threads that belong to it; does nothing without a group, or if it has ended.

    Call it last, in place of ``torch.distributed.destroy_process_group``. That one leaves the threads running for as
    long as anything refers to the group: uncollected garbage and torch's caches do, after a checkpoint or
    ``fully_shard``. Such a thread can abort a program whose work is done ("terminate called without an active
    exception"). References of the caller count too: delete a DistributedDataParallel model, and a group that was given
    to a layer, before the call.

    Args:
        group: the ranks; None for all, which ends every group.
        wait: wait first for the other ranks to call this, so that none closes its connections while another is in its
            last exchange. While an exception is being handled, as in ``finally``, this rank never waits: the others
            notice at once, and the exception goes on.

    Raises:
        PeerError: another rank died or did not come within the group's timeout. The group has ended all the same.

    Example:
        >>> shutdown()
    """
    if not _exists(group):
        return
    try:
        if wait and rank_and_size(group)[1] > 1 and sys.exc_info()[0] is None:
            with peer_errors("waiting for all ranks to end", group), warnings.catch_warnings():
                warnings.filterwarnings("ignore", message=r"barrier\(\): using the device under current context")
                dist.barrier(group)
    finally:
        _end(group)


def _exists(group: Group) -> bool:
    """True while a group has not ended, on the ranks that are in it."""
    if not (dist.is_available() and dist.is_initialized()):
        return False
    try:
        dist.get_backend(group)
    except ValueError:
        return False
    return True


def _end(group: Group) -> None:
    """Destroys a group and drops what torch and garbage still hold of it: its destructor joins its threads."""
    world = dist.group.WORLD
    ended = world if group is None else group
    dist.destroy_process_group(group)
    # Caches of DTensor and of fully_shard keep meshes, and a mesh its groups.
    for mesh in [x for x in gc.get_objects() if type(x) is DeviceMesh]:
        registry = getattr(mesh, "_pg_registry", {})
        if ended is world:
            registry.clear()
        else:
            registry.pop(getattr(ended, "group_name", None), None)
    # Imported after the group was made, this module has it among its functions' default arguments.
    late = sys.modules.get("torch.distributed.nn.functional")
    for function in vars(late).values() if late else ():
        if isinstance(function, types.FunctionType) and function.__defaults__:
            function.__defaults__ = tuple(None if x is ended else x for x in function.__defaults__)
    del world, ended, group
    gc.collect()
