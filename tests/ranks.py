"""Runs functions in several processes joined by gloo, as ranks of one process group."""

from __future__ import annotations

import datetime
import os
import signal
import time
import traceback
from collections.abc import Callable, Mapping
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
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


def _serve(tasks: Connection) -> None:
    """Takes part in one group after another, until there is no more."""
    for task in iter(tasks.recv, None):
        try:
            _rank(*task)
            tasks.send("")
        except BaseException:
            tasks.send(traceback.format_exc())


class Ranks:
    """Processes that are ranks of one group after another: importing torch takes longer than most tests."""

    def __init__(self) -> None:
        self._ranks: list[tuple[BaseProcess, Connection]] = []

    def launch(
        self, ranks: int, folder: Path, run: Callable[..., Any], *arguments: Any, timeout: float = 60
    ) -> list[Any]:
        """Returns each rank's ``run(*arguments)``; ``run`` is at the top of an importable module."""
        folder.mkdir(parents=True, exist_ok=True)
        context = mp.get_context("spawn")
        while len(self._ranks) < ranks:
            ours, theirs = context.Pipe()
            process = context.Process(target=_serve, args=(theirs,))
            process.start()
            theirs.close()  # so that ours ends with the process
            self._ranks.append((process, ours))
        used = self._ranks[:ranks]
        for rank, (_, tasks) in enumerate(used):
            tasks.send((rank, ranks, str(folder), timeout, True, run, arguments))
        deadline, errors = time.monotonic() + 120, []
        try:
            for rank, (process, tasks) in enumerate(used):
                assert tasks.poll(max(0.0, deadline - time.monotonic())), f"rank {rank} still runs after 120 s"
                try:
                    error = tasks.recv()
                except EOFError:
                    process.join(10)
                    error = f"ended with {process.exitcode}"
                errors += [f"rank {rank} of {ranks}: {error}"] if error else []
            assert not errors, "\n".join(errors)
        except BaseException:
            self.kill()
            raise
        return [torch.load(folder / f"{rank}.pt", weights_only=False) for rank in range(ranks)]

    def end(self) -> list[int | None]:
        """Exit codes of all processes."""
        for _, tasks in self._ranks:
            tasks.send(None)
        for process, _ in self._ranks:
            process.join(60)
        codes = [process.exitcode for process, _ in self._ranks]
        self.kill()
        return codes

    def kill(self) -> None:
        for process, _ in self._ranks:
            process.kill()
        self._ranks.clear()


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
