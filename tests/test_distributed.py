"""Several ranks on gloo: what they learn is what one process learns, and what happens when one of them is lost."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import distributed_workers as workers
import pytest
import torch
import torch.distributed as dist
from permissions import forbidden
from ranks import Ranks, spawn_surviving
from torch import Tensor

from conftest import BACKENDS
from spikefuse import LIFLinear, OnlineRule, distributed, online, ops
from spikefuse.distributed import checkpoint
from spikefuse.distributed import ranks as ranks_module
from spikefuse.packed import words_for

pytestmark = pytest.mark.skipif(not dist.is_available() or not dist.is_gloo_available(), reason="no gloo")


Launch = Callable[..., list[Any]]


@pytest.fixture(scope="module")
def launch() -> Iterator[Launch]:
    """Runs a function in several processes, which the module's tests share."""
    ranks = Ranks()
    yield ranks.launch
    assert not any(ranks.end()), "a rank that has done its work ended with an error"


def assert_same(ours: Sequence[object], theirs: Sequence[object]) -> None:
    assert len(ours) == len(theirs)
    for a, b in zip(ours, theirs, strict=True):
        assert torch.equal(a, b) if isinstance(a, Tensor) and isinstance(b, Tensor) else a == b


class TestSlices:
    @pytest.mark.parametrize("neurons", [2, 3, 31, 33, 64, 100, 196, 2048])
    @pytest.mark.parametrize("ranks", [1, 2, 3, 5, 8])
    def test_are_those_of_torch_chunk_or_refused(self, neurons: int, ranks: int) -> None:
        chunks = torch.arange(neurons).chunk(ranks)
        if len(chunks) < ranks:
            with pytest.raises(ValueError, match=f"neurons for each of {ranks} ranks .* got {neurons}"):
                distributed.neuron_slice(neurons, 0, ranks)
            return
        for rank, chunk in enumerate(chunks):
            assert torch.equal(torch.arange(neurons)[distributed.neuron_slice(neurons, rank, ranks)], chunk)

    def test_a_rank_outside_the_group_is_refused(self) -> None:
        with pytest.raises(ValueError, match="0 <= rank < 2, got 2"):
            distributed.neuron_slice(8, 2, 2)


class TestOnlineLearning:
    @pytest.mark.parametrize("ranks", [2, 3])
    def test_weights_loss_and_spikes_are_those_of_one_process_bit_for_bit(
        self, launch: Launch, ranks: int, tmp_path: Path
    ) -> None:
        alone = workers.learn_online_all()
        for several in launch(ranks, tmp_path, workers.learn_online_all):
            for ours, theirs in zip(several, alone, strict=True):
                assert_same(ours, theirs)
        for learned, sizes in zip(alone[:: len(alone) // 4], workers.ONLINE_SIZES, strict=True):
            rates = [float(c.double().mean()) / 20 for c in learned[2 : 1 + len(sizes)]]
            assert all(0.02 < rate < 0.9 for rate in rates), "layers that never or always spike prove nothing"

    @pytest.mark.parametrize("ranks", [2, 3])
    @pytest.mark.skipif("emulated" not in BACKENDS, reason="SPIKEFUSE_EMULATED=0")
    def test_on_emulated_cuda_ranks_learn_what_one_learns(
        self, launch: Launch, ranks: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        several = launch(ranks, tmp_path, workers.learn_online_emulated)
        monkeypatch.setattr(ops, "online_batch_", BACKENDS["emulated"].ops["online_batch_"])
        alone = workers.learn_online_few()
        for rank in several:
            for ours, theirs in zip(rank, alone, strict=True):
                assert_same(ours, theirs)

    def test_one_rank_needs_no_process_group(self) -> None:
        weights, x, y = workers.online_problem((50, 37, 18), torch.float32)
        copies = [w.clone() for w in weights]
        assert_same(
            distributed.online_batch_(copies, x, y, OnlineRule()).spike_counts,
            online.online_batch_(weights, x, y, OnlineRule()).spike_counts,
        )
        assert_same(copies, weights)


class TestExchange:
    """The op's part in it, without other processes: rank 0 of two, whose peer is a Python function."""

    SIZES = (50, 70, 18)

    def learn(
        self, exchange: Callable[[int, Tensor], int], device: str, threads: int = 1
    ) -> tuple[list[Tensor], Tensor]:
        weights, x, y = workers.online_problem(self.SIZES, torch.float64)
        weights[0] = weights[0][:35].clone()
        weights = [w.to(device) for w in weights]
        x, y = (online._as_packed("spikes", s.to(device)) for s in (x, y))
        gathered = torch.zeros(2, words_for(35), x.shape[1], dtype=torch.int32, device=device)
        callback = ctypes.CFUNCTYPE(ctypes.c_int32, ctypes.c_int64)(lambda step: exchange(step, gathered))
        address = ctypes.cast(callback, ctypes.c_void_p).value or 0
        before = torch.get_num_threads()
        torch.set_num_threads(threads)
        try:
            stats = online.learn(weights, x, y, OnlineRule(lr=1e-3), online.Exchange(gathered, address, 0))
        finally:
            torch.set_num_threads(before)
        return weights, torch.cat(stats.spike_counts, 1)

    @pytest.mark.parametrize("threads", [1, 2, 5])
    def test_is_called_once_a_step_by_the_calling_thread(self, device: str, threads: int) -> None:
        calls = []

        def exchange(step: int, gathered: Tensor) -> int:
            calls.append((step, threading.get_ident()))
            return 1

        self.learn(exchange, device, threads)
        assert calls == [(step, threading.get_ident()) for step in range(20)]

    def test_spikes_of_a_peer_reach_their_place_between_words(self, device: str) -> None:
        def exchange(step: int, gathered: Tensor) -> int:
            gathered[1] = 0
            gathered[1, 0, 2] = 1 - 2**31  # bits 0 and 31: neurons 35 + 0 and 35 + 31 of sample 2
            gathered[1, 1, 3] = 0b100 if step < 5 else 0  # neuron 35 + 34 of sample 3
            return 1

        counts = self.learn(exchange, device)[1].cpu()
        theirs = torch.zeros(9, 35, dtype=torch.int32)
        theirs[2, 0] = theirs[2, 31] = 20
        theirs[3, 34] = 5
        assert torch.equal(counts[:, 35:70], theirs)
        assert int(counts[:, :35].sum()) > 0

    @pytest.mark.parametrize("answer", [0, 2, -1])
    @pytest.mark.parametrize("threads", [1, 3])
    def test_another_answer_than_1_stops_the_batch_and_not_the_next(
        self, device: str, answer: int, threads: int
    ) -> None:
        steps = []

        def exchange(step: int, gathered: Tensor) -> int:
            steps.append(step)
            return answer if step == 7 else 1

        with pytest.raises(RuntimeError, match="exchange of spikes between ranks failed in the middle of a batch"):
            self.learn(exchange, device, threads)
        assert steps == list(range(8))
        first, second = (self.learn(lambda *_: 1, device, threads) for _ in range(2))
        assert_same(first[0], second[0])

    def test_arguments_that_do_not_fit_are_refused(self) -> None:
        weights, x, y = workers.online_problem(self.SIZES, torch.float32)
        x, y = (online._as_packed("spikes", s).words for s in (x, y))
        settings = (0.9, 1.0, 0, 0.0, True, 0, 1.0, 0, 1e-3, 0.9, 0.999, 1e-7, 0.0, True)
        gathered = torch.zeros(2, 2, 9, dtype=torch.int32)
        own = [weights[0][:35], weights[1]]
        for (w, buffer, exchange, rank), message in (
            ((own, gathered, 0, 0), "gathered and exchange together"),
            ((own, None, 1, 0), "gathered and exchange together"),
            ((own[:1], gathered, 1, 0), "at least two layers"),
            ((own, gathered, 1, 2), "0 <= rank < 2, got 2"),
            ((weights, gathered, 1, 0), r"weights\[0\] of 35 neurons for rank 0 of 2, got 70"),
            ((own, gathered[:, :1], 1, 0), r"gathered of shape \[2, 2, 9\], got \[2, 1, 9\]"),
            ((own, gathered.long(), 1, 0), "gathered of dtype Int"),
            ((own, gathered.transpose(1, 2).contiguous().transpose(1, 2), 1, 0), "gathered to be contiguous"),
            ((own, None, 0, 0), r"weights\[1\] takes 70 inputs, but the layer before it has 35"),
        ):
            target = y[..., : words_for(len(w[-1]))] if len(w) > 1 else torch.zeros(20, 9, 2, dtype=torch.int32)
            with pytest.raises(RuntimeError, match=message):
                ops.online_batch_(x, target, w, *settings, buffer, exchange, rank)


class TestLayers:
    def test_a_gradient_penalty_is_refused(self) -> None:
        # 43: on one rank too, whose exchanges do nothing
        layer = distributed.NeuronParallelLIFLinear(8, 5, leak=0.1)
        x = torch.rand(6, 3, 8, requires_grad=True)
        exchanges = {
            "layer": lambda: layer(x)[0],
            "loss": lambda: layer.masked_loss(x, torch.ones(6, 3, 5)).loss,
            "copies": lambda: ranks_module.copy_to_ranks(x, None),
            "sums": lambda: ranks_module.reduce_from_ranks(x, None),
            "spikes": lambda: ranks_module.gather_spikes_dense((x > 0.5).float() + 0 * x, 8, None),
        }
        for name, exchange in exchanges.items():
            (grad,) = torch.autograd.grad(exchange().sum(), x, create_graph=True)
            assert grad.requires_grad, name
            with pytest.raises(RuntimeError, match="expected first derivatives only"):
                grad.square().sum().backward()

    @pytest.mark.parametrize("ranks", [2, 3])
    def test_train_as_on_one_rank(self, launch: Launch, ranks: int, tmp_path: Path) -> None:
        """Forward bit for bit; gradients are sums over neurons in another order, rounded at most once more a rank."""
        alone = workers.train_layers_all()
        for several in launch(ranks, tmp_path, workers.train_layers_all):
            for case, ours, theirs in zip(workers.LAYER_CASES, several, alone, strict=True):
                assert ours.keys() == theirs.keys()
                for name, expected in theirs.items():
                    if (name.startswith("0 ") and "grad" not in name and "loss" not in name) or "spikes" in name:
                        assert torch.equal(ours[name], expected), name
                    epsilon = torch.finfo(torch.float32 if case.get("dtype") == torch.float32 else torch.float64).eps
                    error = float((ours[name].double() - expected.double()).abs().max())
                    assert error <= 20 * epsilon * float(expected.abs().max()), name
        for results in alone:
            assert all(0.04 < float(s.double().mean()) < 0.7 for name, s in results.items() if "spikes" in name)
            assert all(bool(g.any()) for name, g in results.items() if name[0] == "0" and "grad" in name)

    def test_begin_with_the_weights_of_a_plain_layer(self) -> None:
        for in_features, out_features in ((5, 7), (3000, 2000)):  # in one draw, and in several
            torch.manual_seed(0)
            plain = LIFLinear(in_features, out_features, bias=True, leak=0.1)
            torch.manual_seed(0)
            layer = distributed.NeuronParallelLIFLinear(in_features, out_features, bias=True, leak=0.1)
            assert_same(list(layer.parameters()), list(plain.parameters()))

    @pytest.mark.parametrize("way", ["ddp", "fully_shard"])
    def test_data_parallel_gradients_are_those_of_one_process(self, launch: Launch, way: str, tmp_path: Path) -> None:
        alone = workers.train_data_parallel("alone")
        for several in launch(2, tmp_path, workers.train_data_parallel, way):
            assert several.keys() == alone.keys()
            for name, expected in alone.items():
                torch.testing.assert_close(several[name], expected, rtol=1e-10, atol=1e-12)
                assert expected.abs().max() > 1e-3, name

    def test_fully_shard_takes_no_parallel_layer(self) -> None:
        layer = distributed.NeuronParallelLIFLinear(5, 7, leak=0.1)
        with pytest.raises(TypeError, match="got NeuronParallelLIFLinear"):
            distributed.for_fully_shard(torch.nn.Sequential(layer))

    def test_arguments_that_do_not_fit_are_refused(self) -> None:
        layer = distributed.NeuronParallelLIFLinear
        with pytest.raises(ValueError, match="out_features >= 1, got 0"):
            layer(5, 0, leak=0.1)
        with pytest.raises(ValueError, match=r"leak as a scalar or of shape \[7\], got \[6\]"):
            layer(5, 7, leak=torch.rand(6))
        with pytest.raises(ValueError, match=r"target of 7 neurons, got \[3, 2, 6\]"):
            layer(5, 7, leak=0.1).masked_loss(torch.zeros(3, 2, 5), torch.zeros(3, 2, 6))


class TestCheckpoints:
    @pytest.mark.parametrize(("written_by", "read_by"), [(2, 1), (2, 3), (1, 2)])
    def test_load_into_another_number_of_ranks(
        self, launch: Launch, written_by: int, read_by: int, tmp_path: Path
    ) -> None:
        expected = [{name: t.clone() for name, t in state.items()} for _, state in workers.checkpoint_states()]
        folder = str(tmp_path / "run")
        if written_by == 1:
            workers.save_states(folder)
        else:
            launch(written_by, tmp_path / "write", workers.save_states, folder)
        loaded = (
            [workers.load_states(folder)]
            if read_by == 1
            else launch(read_by, tmp_path / "read", workers.load_states, folder)
        )
        for states in loaded:
            assert_same(states[0].values(), expected[0].values())  # type: ignore[arg-type]
            assert states[1].keys() == expected[1].keys()
            assert any(name.endswith("exp_avg_sq") for name in states[1])
            for name, tensor in states[1].items():
                # Adam divides by a gradient's own size: ranks' sums of gradients round differently
                torch.testing.assert_close(tensor, expected[1][name], rtol=1e-5, atol=1e-6)

    def test_keeps_the_last_ones_and_refuses_to_overwrite(self, tmp_path: Path) -> None:
        weight = torch.zeros(3, 2)
        for step in (5, 30, 100):
            checkpoint.save(tmp_path, step, {"weight": weight + step}, keep=2)
        assert sorted(p.name for p in tmp_path.iterdir()) == ["step-000000000030", "step-000000000100"]
        with pytest.raises(FileExistsError, match="step-000000000100 is a complete checkpoint already"):
            checkpoint.save(tmp_path, 100, {"weight": weight})
        last = checkpoint.latest(tmp_path)
        assert last is not None
        checkpoint.load_(last, {"weight": weight})
        assert float(weight.mean()) == 100

    def test_what_does_not_fit_is_refused_untouched(self, tmp_path: Path) -> None:
        path = checkpoint.save(tmp_path, 1, {"weight": torch.ones(3, 2)})
        weight = torch.zeros(3, 2)
        with pytest.raises(KeyError, match="has no bias; it has weight"):
            checkpoint.load_(path, {"weight": weight, "bias": torch.zeros(3)})
        with pytest.raises(ValueError, match=r"expected weight of shape \[3, 2\], .* got \[2, 2\]"):
            checkpoint.load_(path, {"weight": weight[:2]})
        with pytest.raises(FileNotFoundError, match="no complete checkpoint"):
            checkpoint.load_(tmp_path / "step-000000000002", {"weight": weight})
        with pytest.raises(ValueError, match="step >= 0 and keep >= 1"):
            checkpoint.save(tmp_path, -1, {"weight": weight})
        with pytest.raises(ValueError, match="this rank's of 4"):
            checkpoint.sharded(weight, 4)
        assert not weight.any()

    @pytest.mark.parametrize("kind", [torch.optim.Adam, torch.optim.SGD])
    def test_an_optimizer_is_given_its_state_and_goes_on_as_if_new(self, kind: type[torch.optim.Optimizer]) -> None:
        settings = {"weight_decay": 0.1, **({"momentum": 0.9} if kind is torch.optim.SGD else {})}
        trained = []
        for given in (False, True):
            torch.manual_seed(0)
            layer = LIFLinear(8, 5, leak=0.1)
            optimizer = kind(layer.parameters(), lr=0.1, **settings)  # type: ignore[call-arg]
            if given:
                state = checkpoint.module_state(layer, optimizer)
                moments = [t for name, t in state.items() if name.startswith("optimizer.weight.")]
                assert moments and not any(t.any() for t in moments)
                assert layer.weight.grad is None
            for _ in range(3):
                optimizer.zero_grad()
                layer.masked_loss((torch.rand(4, 3, 8) < 0.5).float(), torch.ones(4, 3, 5)).loss.backward()
                optimizer.step()
            trained.append(layer.weight.detach())
        assert torch.equal(*trained)

    def test_one_that_cannot_be_written_leaves_the_others(self, tmp_path: Path) -> None:
        path = checkpoint.save(tmp_path / "run", 1, {"weight": torch.ones(3)})
        (tmp_path / "run" / "step-000000000002.partial").write_text("in the way")
        with pytest.raises(OSError, match="step-000000000002"):
            checkpoint.save(tmp_path / "run", 2, {"weight": torch.ones(3)})
        assert checkpoint.latest(tmp_path / "run") == path

    def test_linked_ones_are_found(self, tmp_path: Path) -> None:
        path = checkpoint.save(tmp_path / "disk", 1, {"weight": torch.ones(3)})
        (tmp_path / "run").symlink_to("disk")
        (tmp_path / "other").mkdir()
        (tmp_path / "other" / path.name).symlink_to(path)
        for folder in (tmp_path / "run", tmp_path / "other"):
            last, weight = checkpoint.latest(folder), torch.zeros(3)
            assert last is not None
            checkpoint.load_(last, {"weight": weight})
            assert weight.sum() == 3

    @pytest.mark.parametrize("mode", [0o000, 0o600])
    @pytest.mark.parametrize("name", ["run", "run/step-000000000001", "."])
    def test_one_that_cannot_be_looked_at_is_not_absent(self, name: str, mode: int, tmp_path: Path) -> None:
        path = checkpoint.save(tmp_path / "run", 1, {"weight": torch.ones(3)})
        with forbidden(tmp_path / name, mode):
            with pytest.raises(PermissionError, match=f"cannot be .*'{tmp_path}/run"):
                checkpoint.latest(tmp_path / "run")
            with pytest.raises(PermissionError, match=f"cannot be .*'{path}/info.json'"):
                checkpoint.load_(path, {"weight": torch.ones(3)})
            with pytest.raises((PermissionError, FileExistsError), match=str(path)):
                checkpoint.save(tmp_path / "run", 1, {"weight": torch.ones(3)})
        assert checkpoint.latest(tmp_path / "run") == path

    def test_a_run_s_folder_that_cannot_be_listed_is_not_empty(self, tmp_path: Path) -> None:
        checkpoint.save(tmp_path, 1, {"weight": torch.ones(3)})
        with forbidden(tmp_path, 0o300), pytest.raises(PermissionError, match=f"folder cannot be read.*'{tmp_path}'"):
            checkpoint.latest(tmp_path)

    def test_dangling_links_are_not_absent_checkpoints(self, tmp_path: Path) -> None:
        checkpoint.save(tmp_path / "run", 1, {"weight": torch.ones(3)})
        last = tmp_path / "run" / "step-000000000002"
        last.symlink_to("/disk/gone")
        (tmp_path / "gone").symlink_to("/disk/gone")
        for look in (lambda: checkpoint.latest(last.parent), lambda: checkpoint.load_(last, {})):
            with pytest.raises(FileNotFoundError, match=f"'{last}' -> '/disk/gone'"):
                look()
        for folder in (tmp_path / "gone", tmp_path / "gone" / "run"):
            with pytest.raises(FileNotFoundError, match=f"'{tmp_path}/gone' -> '/disk/gone'"):
                checkpoint.latest(folder)
        (tmp_path / "file").touch()
        with pytest.raises(NotADirectoryError, match=f"'{tmp_path}/file'"):
            checkpoint.latest(tmp_path / "file")
        assert checkpoint.latest(tmp_path / "new") is None

    def test_an_old_one_that_cannot_be_looked_at_does_not_stop_a_run(self, tmp_path: Path) -> None:
        checkpoint.save(tmp_path, 1, {"weight": torch.ones(3)})
        (tmp_path / "step-000000000002").symlink_to("gone")
        for step in (3, 4):
            checkpoint.save(tmp_path, step, {"weight": torch.ones(3)}, keep=1)
        assert sorted(p.name[-1] for p in tmp_path.iterdir()) == ["2", "4"]

    def test_one_whose_files_cannot_be_read_is_named(self, tmp_path: Path) -> None:
        path = checkpoint.save(tmp_path, 1, {"weight": torch.ones(3)})
        for file in path.iterdir():
            with forbidden(file), pytest.raises(OSError, match=f"Permission denied: '{file}'"):
                checkpoint.load_(path, {"weight": torch.zeros(3)})


@pytest.fixture(scope="module")
def undisturbed() -> list[Tensor]:
    """The weights of the runs that are interrupted, had they not been."""
    sizes, rule, batches = workers.TRAINING
    weights = workers.online_problem(sizes, torch.float32)[0]
    for batch in range(batches):
        _, x, y = workers.online_problem(sizes, torch.float32, seed=batch)
        online.online_batch_(weights, x, y, rule)
    return weights


@pytest.mark.serial
class TestLostRanks:
    @pytest.mark.parametrize(("failure", "ranks"), [("killed", 3), ("killed while writing", 2), ("stopped", 2)])
    def test_others_stop_soon_and_training_resumes(
        self, launch: Launch, failure: str, ranks: int, undisturbed: list[Tensor], tmp_path: Path
    ) -> None:
        folder, timeout = str(tmp_path / "run"), 4 if failure == "stopped" else 60
        run = workers.train_with_checkpoints
        codes = spawn_surviving(ranks, tmp_path / "first", run, folder, failure, timeout=timeout)
        assert codes == {rank: -signal.SIGKILL if rank == 1 else 0 for rank in range(ranks)}
        for rank in set(range(ranks)) - {1}:
            message, seconds, _, _ = torch.load(tmp_path / "first" / f"{rank}.pt")
            assert f"rank {rank} of {ranks}" in message and "go on from the last complete checkpoint" in message
            # a dead peer is noticed at once, one that does not answer for 60 s after the timeout of 4 s
            assert seconds < 30
        last = checkpoint.latest(folder)
        assert last is not None and checkpoint.step_of(last) == 6
        results = launch(2, tmp_path / "second", run, folder) if ranks == 3 else [run(folder)]
        for message, _, begin, weights in results:
            assert not message and begin == 6
            assert_same(weights, undisturbed)

    def test_a_batch_that_one_rank_refuses_or_that_differs_stops_all_and_changes_nothing(
        self, launch: Launch, tmp_path: Path
    ) -> None:
        own, peer = launch(2, tmp_path, workers.refuse_batches)
        assert "rank 1 refused its batch" in own[0] and "PeerError" in own[0]
        assert peer[0] == "ValueError: online_batch_: expected finite weights, got NaN or infinity"
        assert "rank 1 refused its batch" in own[1] and "expected weights[0] of 35 neurons" in peer[1]
        for i, name in ((2, "inputs"), (3, "later weights"), (4, "rule")):
            assert f"expected the same {name} on all ranks" in own[i] and f"expected the same {name}" in peer[i]
        for messages in (own, peer):
            assert messages[5:7] == ["True", "learned"]
            assert "FloatingPointError" in messages[7]

    def test_an_interrupt_inside_the_exchange_comes_out(self, launch: Launch, tmp_path: Path) -> None:
        assert launch(2, tmp_path, workers.interrupt) == [["interrupted", "learned"]] * 2


@pytest.mark.serial
class TestShutdown:
    def test_leaves_no_thread_whatever_the_group_was_used_for(self, launch: Launch, tmp_path: Path) -> None:
        for left in launch(2, tmp_path, workers.threads_left, str(tmp_path)):
            assert len(left) == 6
            assert not any(left.values()), left

    def test_leaves_no_thread_where_modules_were_imported_after_the_group_was_made(self, tmp_path: Path) -> None:
        program = f"""if True:
            import torch.distributed as dist
            import ranks
            ranks.join(0, 1, {str(tmp_path / "store")!r})
            dist.barrier()
            import distributed_workers as workers
            workers.distributed.shutdown()
            print(workers.gloo_threads_left())
        """
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *sys.path])}
        result = subprocess.run(
            [sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True, timeout=120
        )
        assert result.stdout == "0\n"

    def test_of_one_group_leaves_the_others_and_none_of_its_threads(self, launch: Launch, tmp_path: Path) -> None:
        for ranks, before, during, after in launch(2, tmp_path, workers.end_a_part):
            assert ranks == 2
            assert 0 < before == after < during

    def test_neither_waits_nor_hides_an_exception_and_ends_a_group_whose_rank_died(self, tmp_path: Path) -> None:
        codes = spawn_surviving(2, tmp_path / "ranks", workers.end_alone, str(tmp_path), timeout=60)
        assert codes == {0: 0, 1: -signal.SIGKILL}
        message, seconds, threads = torch.load(tmp_path / "ranks" / "0.pt")
        assert message.startswith("KeyError: 'of this rank', rank 0 of 2: waiting for all ranks to end failed")
        assert seconds < 30 and threads == 0
        message, seconds = torch.load(tmp_path / "message")
        assert message.startswith("PeerError: rank 1 of 2") and seconds < 30

    def test_does_nothing_without_a_group(self) -> None:
        distributed.shutdown()
        distributed.shutdown(dist.GroupMember.NON_GROUP_MEMBER)  # type: ignore[arg-type]
