"""Runs functions in several processes joined by gloo, as ranks of one process group."""

from __future__ import annotations

import datetime
import os
import signal
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from spikefuse import distributed


def _rank(
    rank: int,
    ranks: int,
    folder: str,
    timeout: float,
    orderly: bool,
    run: Callable[..., Any],
    arguments: tuple[Any, ...],
) -> None:
    torch.set_num_threads(2)  # the callback must come from the right one of several threads
    join(rank, ranks, f"{folder}/store", timeout)
    try:
        torch.save(run(*arguments), Path(folder) / f"{rank}.pt")
    finally:
        distributed.shutdown(wait=orderly)


def join(rank: int, ranks: int, store: str, timeout: float = 60) -> None:
    """Makes a process group with the other ranks that name this file, which is new."""
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    dist.init_process_group(
        "gloo",
        init_method=f"file://{store}",
        rank=rank,
        world_size=ranks,
        timeout=datetime.timedelta(seconds=timeout),
    )


def launch(ranks: int, folder: Path, run: Callable[..., Any], *arguments: Any, timeout: float = 60) -> list[Any]:
    """What each rank's ``run(*arguments)`` returned; ``run`` is at the top of an importable module."""
    folder.mkdir(parents=True, exist_ok=True)
    processes = mp.spawn(_rank, (ranks, str(folder), timeout, True, run, arguments), nprocs=ranks, join=False)
    finish(processes)
    return [torch.load(folder / f"{rank}.pt", weights_only=False) for rank in range(ranks)]


def finish(processes: Any, seconds: float = 120) -> None:
    """Waits for processes of mp.spawn, and kills those that do not end."""
    deadline = datetime.datetime.now() + datetime.timedelta(seconds=seconds)
    try:
        while not processes.join(timeout=1):
            assert datetime.datetime.now() < deadline, f"ranks still run after {seconds} s"
    finally:
        for process in processes.processes:
            if process.is_alive():
                process.kill()


def spawn_surviving(
    ranks: int, folder: Path, run: Callable[..., Any], *arguments: Any, timeout: float
) -> Mapping[int, int | None]:
    """Exit codes by rank, for runs in which some are meant to be killed."""
    folder.mkdir(parents=True, exist_ok=True)
    context = mp.get_context("spawn")
    processes = [
        context.Process(target=_rank, args=(r, ranks, str(folder), timeout, False, run, arguments))
        for r in range(ranks)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join(120)
    codes = {r: process.exitcode for r, process in enumerate(processes)}
    for process in processes:
        if process.is_alive():
            process.kill()
    return codes


def kill_this_process() -> None:
    """As the system does when memory is out: no handler runs, no connection is closed in order."""
    os.kill(os.getpid(), signal.SIGKILL)
