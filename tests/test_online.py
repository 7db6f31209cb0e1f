"""The online rule: its equations against each other, and the compiled op against the reference."""

from __future__ import annotations

import dataclasses
import itertools
import math
import subprocess
import sys
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from spikefuse import LIFLinear, OnlineRule, PackedSpikes, functional, online, reference
from spikefuse.online import OnlineStats

SIZES = [(40, 30, 40), (33, 17), (50, 37, 21, 18), (1, 1), (65, 130, 3)]


def make_problem(
    sizes: tuple[int, ...], steps: int, samples: int, dtype: torch.dtype = torch.float64, seed: int = 0
) -> tuple[list[Tensor], Tensor, Tensor]:
    """Weights that let all layers spike now and then, and random input and target spikes."""
    generator = torch.Generator().manual_seed(seed)
    pairs = itertools.pairwise(sizes)
    weights = [(torch.rand(o, i, generator=generator, dtype=dtype) - 0.35) * 2 * i**-0.5 for i, o in pairs]
    inputs = (torch.rand(steps, samples, sizes[0], generator=generator) < 0.4).float()
    targets = (torch.rand(steps, samples, sizes[-1], generator=generator) < 0.3).float()
    return weights, inputs, targets


def learn(
    device: str, weights: list[Tensor], x: Tensor, y: Tensor, rule: OnlineRule
) -> tuple[list[Tensor], OnlineStats]:
    """Learns a batch on a device; returns new weights on the CPU and leaves the given ones as they are."""
    weights = [w.clone().to(device) for w in weights]
    stats = online.online_batch_(weights, x.to(device), y.to(device), rule)
    return [w.cpu() for w in weights], dataclasses.replace(stats, spike_counts=[c.cpu() for c in stats.spike_counts])


class TestEquations:
    """PAPER section 3: one gradient, four ways to compute it."""

    @settings(max_examples=40, deadline=None)
    @given(
        st.integers(1, 12),
        st.integers(1, 4),
        st.integers(1, 9),
        st.integers(1, 7),
        st.floats(0, 1),
        st.integers(0, 2**31),
    )
    def test_trace_window_difference_and_reverse_scan_agree(
        self, steps: int, samples: int, fan_in: int, neurons: int, leak: float, seed: int
    ) -> None:
        generator = torch.Generator().manual_seed(seed)
        decay = 1 - leak
        x = (torch.rand(steps, samples, fan_in, generator=generator) < 0.5).double()
        spikes = (torch.rand(steps, samples, neurons, generator=generator) < 0.3).double()
        delta = torch.randn(steps, samples, neurons, generator=generator, dtype=torch.float64)

        e = torch.zeros(samples, neurons, fan_in, dtype=torch.float64)
        q = torch.zeros(samples, fan_in, dtype=torch.float64)
        q_at_spike = torch.zeros(samples, neurons, fan_in, dtype=torch.float64)
        last = torch.full((samples, neurons), -1)
        trace_form = torch.zeros(neurons, fan_in, dtype=torch.float64)
        window_form, difference_form = trace_form.clone(), trace_form.clone()
        for t in range(steps):
            e = decay * e + x[t][:, None, :]  # eqs 10, 16
            trace_form += torch.einsum("bm,bmn->mn", delta[t], e)  # eqs 11, 17
            for past in range(t + 1):
                inside = (past > last).double()
                window_form += decay ** (t - past) * torch.einsum("bm,bn->mn", delta[t] * inside, x[past])
            q = decay * q + x[t]
            since = torch.where(last >= 0, decay ** (t - last).double(), torch.zeros(()).double())
            difference = q[:, None, :] - since[:, :, None] * q_at_spike
            difference_form += torch.einsum("bm,bmn->mn", delta[t], difference)
            e = e * (1 - spikes[t])[:, :, None]
            q_at_spike = torch.where(spikes[t][:, :, None] > 0, q[:, None, :], q_at_spike)
            last = torch.where(spikes[t] > 0, t, last)

        g = torch.zeros(samples, neurons, dtype=torch.float64)
        reverse_scan = torch.zeros_like(trace_form)
        for t in reversed(range(steps)):
            g = delta[t] + decay * (1 - spikes[t]) * g
            reverse_scan += torch.einsum("bm,bn->mn", g, x[t])

        scale = max(1.0, float(trace_form.abs().max()))
        for other in (window_form, difference_form, reverse_scan):
            assert float((other - trace_form).abs().max()) <= 1e-12 * scale

    @settings(max_examples=15, deadline=None)
    @given(st.integers(1, 9), st.integers(1, 3), st.integers(1, 40), st.integers(1, 12), st.integers(0, 2**31))
    def test_one_layer_held_weights_equals_autograd_of_lif_linear(
        self, steps: int, samples: int, fan_in: int, neurons: int, seed: int
    ) -> None:
        (weight,), x, y = make_problem((fan_in, neurons), steps, samples, seed=seed)
        layer = LIFLinear(fan_in, neurons, leak=0.1, dtype=torch.float64)
        with torch.no_grad():
            layer.weight.copy_(weight)
        layer.masked_loss(PackedSpikes.pack(x), y).loss.backward()
        total = torch.zeros_like(weight)

        def add(_: int, gradients: list[Tensor], __: list[Tensor]) -> None:
            total.add_(gradients[0] * samples)

        held = OnlineRule(trace="gated", optimizer="sgd", lr=0.0)
        reference.online_step([weight], x, y, held, "materialised", on_step=add)
        assert layer.weight.grad is not None
        torch.testing.assert_close(layer.weight.grad, total, rtol=1e-12, atol=1e-12)

    def test_hidden_layer_differs_from_autograd_as_documented(self) -> None:
        weights, x, y = make_problem((20, 15, 20), 8, 3)
        layers = [LIFLinear(w.shape[1], w.shape[0], leak=0.1, dtype=torch.float64) for w in weights]
        with torch.no_grad():
            for layer, weight in zip(layers, weights, strict=True):
                layer.weight.copy_(weight)
        layers[1].masked_loss(layers[0](x.double())[0], y).loss.backward()
        totals = [torch.zeros_like(w) for w in weights]

        def add(_: int, gradients: list[Tensor], __: list[Tensor]) -> None:
            for total, gradient in zip(totals, gradients, strict=True):
                total.add_(gradient * 3)

        held = OnlineRule(trace="gated", optimizer="sgd", lr=0.0)
        reference.online_step(weights, x, y, held, on_step=add)
        assert layers[0].weight.grad is not None and layers[1].weight.grad is not None
        torch.testing.assert_close(layers[1].weight.grad, totals[1], rtol=1e-12, atol=1e-12)
        assert float((layers[0].weight.grad - totals[0]).abs().max()) > 1e-3


class TestParity:
    """The op against the reference in float64: the order of sums is the only difference."""

    @pytest.mark.parametrize("steps", [1, 6, 20, 35, 70, 130])
    @pytest.mark.parametrize("sizes", SIZES)
    @pytest.mark.parametrize("trace", ["shared", "gated"])
    @pytest.mark.parametrize("optimizer", ["adam", "sgd"])
    def test_float64(self, device: str, sizes: tuple[int, ...], trace: str, optimizer: str, steps: int) -> None:
        weights, x, y = make_problem(sizes, steps, 5)
        rule = OnlineRule(trace=trace, optimizer=optimizer, lr=1e-3 if optimizer == "adam" else 0.1)
        expected, loss, counts, zeros = reference.online_step(weights, x, y, rule)
        weights, stats = learn(device, weights, x, y, rule)
        for ours, theirs in zip(weights, expected, strict=True):
            # Adam divides a gradient by its own size, which turns 1e-16 of a sum into about 1e-12 of a weight.
            torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-11)
        assert [c.tolist() for c in stats.spike_counts] == [c.tolist() for c in counts]
        assert math.isclose(stats.loss, loss, rel_tol=1e-10)
        assert math.isclose(stats.error_zeros, zeros, abs_tol=1e-12)
        spikes = [float(c.sum()) / (5 * steps * c.shape[1]) for c in counts]
        assert stats.firing_rates == pytest.approx(spikes)

    @pytest.mark.parametrize(
        "change",
        [
            {"leak": 0.0},
            {"leak": 1.0},
            {"threshold": 0.6},
            {"trace_divisor": 7.0},
            {"v_clamp": False},
            {"v_clamp": True, "trace": "gated"},
            {"surrogate": "atan", "slope": 2.0},
            {"surrogate": "fast_sigmoid", "slope": 5.0},
            {"surrogate": "triangle", "slope": 0.7},
            {"slope": 3.0},
            {"betas": (0.5, 0.9)},
            {"betas": (0.0, 0.0)},
            {"eps": 1e-3},
            {"lr": 1e-2},
            {"weight_decay": 0.3},
            {"weight_decay": 0.3, "weight_decay_mode": "l2"},
            {"weight_decay": 0.3, "optimizer": "sgd"},
            {"weight_decay": 0.3, "weight_decay_mode": "l2", "optimizer": "sgd"},
        ],
        ids=str,
    )
    def test_every_setting_reaches_the_kernel(self, device: str, change: dict[str, object]) -> None:
        weights, x, y = make_problem((40, 30, 40), 12, 4)
        base = {"lr": 1e-3, "trace": change.get("trace", "shared"), "optimizer": change.get("optimizer", "adam")}
        plain = reference.online_step(weights, x, y, OnlineRule(**base))[0]
        rule = OnlineRule(**{**base, **change})
        expected = reference.online_step(weights, x, y, rule)[0]
        weights, _ = learn(device, weights, x, y, rule)
        for ours, theirs in zip(weights, expected, strict=True):
            torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-11)
        assert any(float((a - b).abs().max()) > 1e-6 for a, b in zip(expected, plain, strict=True))

    @pytest.mark.parametrize("trace", ["shared", "gated"])
    def test_materialised_trace_equals_window(self, trace: str) -> None:
        weights, x, y = make_problem((24, 18, 24), 10, 3)
        rule = OnlineRule(trace=trace)
        window = reference.online_step(weights, x, y, rule, "window")[0]
        materialised = reference.online_step(weights, x, y, rule, "materialised")[0]
        for a, b in zip(window, materialised, strict=True):
            torch.testing.assert_close(a, b, rtol=0, atol=1e-11)

    @pytest.mark.parametrize("trace", ["shared", "gated"])
    @pytest.mark.parametrize("steps", [15, 30, 60, 70, 140])
    def test_float32_stays_with_float64(self, device: str, trace: str, steps: int) -> None:
        """One fp32 rounding may tip a neuron over the threshold; without such a flip the weights agree to 1e-5."""
        weights, x, y = make_problem((60, 48, 60), steps, 6, torch.float32, seed=3)
        doubles = [w.double() for w in weights]
        # the decay as fp32 holds it, so that both compute with the same number
        rule = OnlineRule(trace=trace, leak=0.125, eps=1e-4)
        weights, stats32 = learn(device, weights, x, y, rule)
        doubles, stats64 = learn(device, doubles, x, y, rule)
        assert [c.tolist() for c in stats32.spike_counts] == [c.tolist() for c in stats64.spike_counts]
        for single, double in zip(weights, doubles, strict=True):
            torch.testing.assert_close(single.double(), double, rtol=0, atol=1e-5 * float(double.abs().max()))

    @pytest.mark.parametrize(
        "change",
        [{}, {"weight_decay": 0.3}, {"weight_decay": 0.3, "weight_decay_mode": "l2"}, {"optimizer": "sgd"}],
        ids=str,
    )
    @pytest.mark.parametrize("trace", ["shared", "gated"])
    @pytest.mark.parametrize("samples", [1, 31, 33, 70])
    def test_silent_inputs_and_outputs_and_dense_hidden_spikes(
        self, device: str, samples: int, trace: str, change: dict[str, object]
    ) -> None:
        """Inputs that begin to spike late or never, outputs without an error, and a hidden layer dense enough for
        table lookup: what the op leaves out or computes another way."""
        weights, _, _ = make_problem((150, 90, 70), 1, 1)
        weights[0] = weights[0] * 4
        generator = torch.Generator().manual_seed(2)
        rates = torch.cat((torch.zeros(30), torch.full((70,), 0.01), torch.full((50,), 0.5)))
        x = (torch.rand(18, samples, 150, generator=generator) < rates).float()
        x[:9, :, 120:] = 0
        weights[1][40:] = -weights[1][40:].abs()  # never spike, and their targets do not
        y = (torch.rand(18, samples, 70, generator=generator) < 0.1).float()
        y[..., 40:] = 0
        rule = OnlineRule(trace=trace, lr=1e-3, **change)
        expected, loss, counts, _ = reference.online_step(weights, x, y, rule)
        assert samples < 30 or float(counts[0].double().mean()) / 18 > 0.45
        weights, stats = learn(device, weights, x, y, rule)
        for ours, theirs in zip(weights, expected, strict=True):
            torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-11)
        assert [c.tolist() for c in stats.spike_counts] == [c.tolist() for c in counts]
        assert math.isclose(stats.loss, loss, rel_tol=1e-10)

    @pytest.mark.parametrize("weight_decay", [0.0, 0.3])
    @pytest.mark.parametrize("trace", ["shared", "gated"])
    def test_rows_that_wait_longer_than_errors_are_kept(self, device: str, trace: str, weight_decay: float) -> None:
        """Errors are kept for 64 steps at most: an input that spikes and then rests for longer is updated meanwhile."""
        weights, x, y = make_problem((60, 20, 30), 150, 3)
        x[1:, :, :25] = 0  # once, and never again
        x[2:90, :, 25:45] = 0  # and again much later
        x[:100, :, 45:50] = 0  # late for the first time
        rule = OnlineRule(trace=trace, lr=1e-3, weight_decay=weight_decay)
        expected, _, counts, _ = reference.online_step(weights, x, y, rule)
        weights, stats = learn(device, weights, x, y, rule)
        for ours, theirs in zip(weights, expected, strict=True):
            torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-11)
        assert [c.tolist() for c in stats.spike_counts] == [c.tolist() for c in counts]

    @pytest.mark.parametrize("trace", ["shared", "gated"])
    def test_ten_batches_in_float32_differ_by_threshold_ties_only(self, trace: str) -> None:
        """Training goes on freely in fp32; float64 follows it and takes over a spike only where its v is at the
        threshold but for rounding. Given the same spikes, the weights agree to 1e-5."""
        sizes, steps, samples = (196, 64, 196), 15, 20
        weights, _, _ = make_problem(sizes, 1, 1, torch.float32, seed=5)
        rule = OnlineRule(trace=trace, leak=0.125)  # a decay that fp32 holds exactly
        doubles = [w.double() for w in weights]
        ties, flips, spikes_seen = [], 0, 0.0
        for batch in range(10):
            generator = torch.Generator().manual_seed(batch)
            rates = torch.rand(samples, sizes[0], generator=generator) ** 4
            x = (torch.rand(steps, samples, sizes[0], generator=generator) < rates).float()
            # spikes of step t: the counts of t steps less those of t - 1, each from the same weights
            counts = [[torch.zeros(samples, n, dtype=torch.int32) for n in sizes[1:]]]
            for t in range(1, steps + 1):
                copies = [w.clone() for w in weights]
                counts.append(online.online_batch_(copies, x[:t], x[:t], rule).spike_counts)
            weights = copies

            def fire(t: int, layer: int, v: Tensor, counts: list[list[Tensor]] = counts) -> Tensor:
                nonlocal flips, spikes_seen
                spikes = (counts[t][layer] - counts[t - 1][layer]) > 0
                differ = spikes != (v >= rule.threshold)
                ties.extend((v[differ] - rule.threshold).abs().tolist())
                flips, spikes_seen = flips + int(differ.sum()), spikes_seen + float(spikes.sum())
                return spikes

            doubles = reference.online_step(doubles, x, x, rule, fire=fire)[0]
        assert spikes_seen > 1000
        assert flips <= 1e-5 * 10 * steps * samples * sum(sizes[1:])
        assert max(ties, default=0.0) < 1e-5
        for single, double in zip(weights, doubles, strict=True):
            torch.testing.assert_close(single.double(), double, rtol=0, atol=1e-5 * float(double.abs().max()))


class TestLayoutThreadsAndState:
    """Nothing but the problem decides the result."""

    def test_input_major_output_major_and_strided_weights(self, device: str) -> None:
        weights, x, y = make_problem((40, 30, 20), 9, 4, torch.float32)
        rule = OnlineRule(trace="gated")
        results = []
        for layout in (
            lambda w: w.clone(),
            lambda w: w.t().contiguous().t(),
            lambda w: w.new_zeros(2 * w.shape[0], 3 * w.shape[1])[::2, 1::3].copy_(w),
        ):
            copies = [layout(w.to(device)) for w in weights]
            online.online_batch_(copies, x.to(device), y.to(device), rule)
            results.append(copies)
        for other in results[1:]:
            assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))

    @pytest.mark.parametrize("trace", ["shared", "gated"])
    def test_bitwise_same_for_any_thread_count(self, trace: str) -> None:
        weights, x, y = make_problem((130, 70, 90), 12, 40, torch.float32)
        before = torch.get_num_threads()
        results = []
        try:
            for threads in (1, 2, 3, 8):
                torch.set_num_threads(threads)
                copies = [w.clone() for w in weights]
                stats = online.online_batch_(copies, x, y, OnlineRule(trace=trace))
                results.append((copies, stats.loss))
        finally:
            torch.set_num_threads(before)
        for copies, loss in results[1:]:
            assert all(torch.equal(a, b) for a, b in zip(results[0][0], copies, strict=True))
            assert loss == results[0][1]

    @pytest.mark.parametrize("trace", ["shared", "gated"])
    def test_bitwise_same_for_any_instruction_set(self, trace: str, tmp_path) -> None:
        script = (
            "import sys, torch\n"
            "from spikefuse import OnlineRule, online\n"
            "g = torch.Generator().manual_seed(0)\n"
            "learned = []\n"
            # a few steps, enough samples for table lookup, more steps than a history word holds
            "for steps, samples in ((15, 6), (20, 70), (60, 3), (100, 3), (140, 2)):\n"
            "    w = [(torch.rand(o, i, generator=g) - 0.35) * 0.3 for i, o in ((50, 37), (37, 50))]\n"
            "    x = (torch.rand(steps, samples, 50, generator=g) < 0.4).float()\n"
            f"    online.online_batch_(w, x, x, OnlineRule(trace={trace!r}))\n"
            "    learned += w\n"
            "torch.save(learned, sys.argv[1])\n"
        )
        results = []
        for name in ("default", "avx2", "avx512"):
            path = tmp_path / name
            done = subprocess.run(
                [sys.executable, "-c", script, str(path)],
                env={"SPIKEFUSE_ISA": name, "PATH": "", "PYTHONPATH": ":".join(sys.path)},
                capture_output=True,
                text=True,
                check=False,
            )
            if "this processor has not all of" in done.stderr:
                continue
            assert done.returncode == 0, done.stderr
            results.append(torch.load(path))
        assert results
        for other in results[1:]:
            assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))

    def test_packed_dense_and_transposed_inputs_agree(self, device: str) -> None:
        weights, x, y = make_problem((40, 20), 6, 4, torch.float32)
        x, y = x.to(device), y.to(device)
        results = []
        for inputs, targets in (
            (x, y),
            (PackedSpikes.pack(x), PackedSpikes.pack(y)),
            (x.transpose(0, 1).contiguous().transpose(0, 1), y.bool()),
            (PackedSpikes.pack(x.transpose(0, 1)).transpose(0, 1), PackedSpikes.pack(y)),
        ):
            copies = [w.clone().to(device) for w in weights]
            online.online_batch_(copies, inputs, targets, OnlineRule())
            results.append(copies[0])
        assert all(torch.equal(results[0], other) for other in results[1:])

    @pytest.mark.parametrize(("steps", "samples"), [(0, 3), (3, 0), (0, 0)])
    def test_nothing_to_learn_changes_nothing(self, device: str, steps: int, samples: int) -> None:
        weights, x, y = make_problem((8, 5, 8), steps, samples, torch.float32)
        copies, stats = learn(device, weights, x, y, OnlineRule(weight_decay=0.5))
        assert all(torch.equal(a, b) for a, b in zip(weights, copies, strict=True))
        assert stats.loss == 0 and stats.error_zeros == 1 and stats.firing_rates == [0.0, 0.0]

    def test_learning_reduces_the_loss(self) -> None:
        weights, _, _ = make_problem((64, 32, 64), 15, 20, torch.float32)
        pattern = (torch.rand(1, 20, 64, generator=torch.Generator().manual_seed(1)) < 0.2).float().expand(15, -1, -1)
        losses = [online.online_batch_(weights, pattern, pattern, OnlineRule(lr=2e-3)).loss for _ in range(40)]
        assert losses[-1] < 0.5 * losses[0]

    def test_no_trace_per_synapse_is_allocated(self) -> None:
        """[B, out, in] would be 419 MB here; the peak of the process stays far below."""
        script = (
            "import resource, torch\n"
            "from spikefuse import OnlineRule, online\n"
            "w = [torch.rand(1024, 1024) * 0.1, torch.rand(1024, 1024) * 0.01]\n"
            "x = (torch.rand(4, 100, 1024) < 0.1).float()\n"
            "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
            "online.online_batch_(w, x, x, OnlineRule(trace='gated'))\n"
            "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)\n"
        )
        done = subprocess.run(
            [sys.executable, "-c", script],
            env={"PYTHONPATH": ":".join(sys.path), "PATH": ""},
            capture_output=True,
            text=True,
            check=True,
        )
        assert int(done.stdout) < 100_000  # KiB


class TestMemory:
    """44, 51: autograd notices the update, and two weights never lie in one place."""

    @pytest.mark.parametrize("wrap", [torch.nn.Parameter, lambda w: w], ids=["parameter", "tensor"])
    def test_the_update_bumps_the_version(self, device: str, wrap: Callable[[Tensor], Tensor]) -> None:
        weights, x, y = make_problem((8, 5, 6), 3, 2, torch.float32)
        weights = [wrap(w.to(device)) for w in weights]
        before = [w._version for w in weights]
        online.online_batch_(weights, x.to(device), y.to(device), OnlineRule())
        assert all(w._version > b for w, b in zip(weights, before, strict=True))

    def test_a_backward_through_the_old_weights_is_refused(self, device: str) -> None:
        weights, x, y = make_problem((8, 6), 3, 2, torch.float32)
        (weight,) = (torch.nn.Parameter(w.to(device)) for w in weights)
        current = torch.rand(3, 2, 8, device=device, requires_grad=True)
        dense = (current @ weight.t()).sum()
        spikes = functional.spike_linear(x.to(device).requires_grad_(), weight).sum()
        online.online_batch_([weight], x.to(device), y.to(device), OnlineRule())
        for out in (dense, spikes):
            with pytest.raises(RuntimeError, match="modified by an inplace operation"):
                out.backward()

    def test_weights_made_in_inference_mode_are_learned(self, device: str) -> None:
        with torch.inference_mode():
            weights, x, y = make_problem((8, 5, 6), 3, 2, torch.float32)
            learned, _ = learn(device, weights, x, y, OnlineRule())
        expected, _ = learn(device, *make_problem((8, 5, 6), 3, 2, torch.float32), OnlineRule())
        assert all(torch.equal(a, b) for a, b in zip(learned, expected, strict=True))

    @pytest.mark.parametrize(
        ("share", "message"),
        [
            (lambda v: [v, v.t()], r"share no memory, got weights\[0\] and weights\[1\]"),
            (lambda v: [v[:, :6], v[:, 3:9].t()], r"share no memory, got weights\[0\] and weights\[1\]"),
            (lambda v: [v[:6, :6], v[6:, :6], v[5:11, :6]], r"share no memory, got weights\[0\] and weights\[2\]"),
            (lambda v: [v[:1, :6].expand(6, 6)], r"weights\[0\] with memory of its own for each element"),
            (lambda v: [v[:6, :1].expand(6, 6)], r"weights\[0\] with memory of its own for each element"),
            (lambda v: [v.flatten().as_strided((6, 6), (1, 2))], r"got shape \[6, 6\] with strides \(1, 2\)"),
        ],
        ids=["transposed", "columns that overlap", "rows that overlap", "one row", "one column", "as_strided"],
    )
    def test_shared_memory_is_refused_untouched(
        self, device: str, share: Callable[[Tensor], list[Tensor]], message: str
    ) -> None:
        whole = torch.rand(12, 12, device=device)
        before = whole.clone()
        weights = share(whole)
        sizes = (weights[0].shape[1], *(w.shape[0] for w in weights))
        x, y = (torch.ones(3, 2, n, device=device) for n in (sizes[0], sizes[-1]))
        with pytest.raises(ValueError, match=message):
            online.online_batch_(weights, x, y, OnlineRule())
        assert torch.equal(whole, before)

    @pytest.mark.parametrize(
        "split",
        [
            lambda v: [v[:6], v[6:].t()],
            lambda v: [v[:, :6].t(), v[:, 6:]],  # rows of both lie between each other's
            lambda v: [v[::2], v[1::2].t()],
            lambda v: [v[:1], v[1:2].expand(1, 12).t()],
        ],
        ids=["rows", "columns", "every second row", "one neuron"],
    )
    def test_parts_of_one_tensor_are_taken(self, device: str, split: Callable[[Tensor], list[Tensor]]) -> None:
        views = split(torch.rand(12, 12, generator=torch.Generator().manual_seed(0)).to(device))
        apart = [w.clone() for w in views]
        x, y = (torch.ones(3, 2, n, device=device) for n in (views[0].shape[1], views[-1].shape[0]))
        for weights in (views, apart):
            online.online_batch_(weights, x, y, OnlineRule())
        assert all(torch.equal(a, b) for a, b in zip(views, apart, strict=True))

    def test_tied_weights_may_run_forward(self, device: str) -> None:
        v = torch.rand(5, 8, device=device)
        assert len(online.forward([v, v.t()], torch.ones(3, 2, 8, device=device), OnlineRule())) == 2


class TestForward:
    """Weights held."""

    def test_equals_reference_layers(self) -> None:
        weights, x, _ = make_problem((40, 30, 20), 10, 4)
        layers = online.forward(weights, x, OnlineRule(leak=0.2, threshold=0.8))
        current = x.double()
        for weight, packed in zip(weights, layers, strict=True):
            current = reference.lif(current @ weight.T, decay=0.8, threshold=0.8)[0]
            assert torch.equal(packed.unpack(torch.float64), current)

    def test_clamp_changes_no_spike(self) -> None:
        weights, x, y = make_problem((40, 30, 20), 10, 4)
        frozen = [OnlineRule(lr=0.0, v_clamp=clamp) for clamp in (True, False)]
        counts = [online.online_batch_([w.clone() for w in weights], x, y, rule).spike_counts for rule in frozen]
        held = [packed.counts() for packed in online.forward(weights, x, frozen[0])]
        for clamped, free, forward in zip(*counts, held, strict=True):
            assert torch.equal(clamped, free) and torch.equal(clamped, forward)


class TestBadInput:
    """Each error names the argument, what came and what is allowed."""

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"leak": -0.1}, "leak"),
            ({"leak": 1.1}, "leak"),
            ({"leak": math.nan}, "leak"),
            ({"threshold": 0.0}, "threshold"),
            ({"trace": "both"}, "trace as one of shared, gated, got 'both'"),
            ({"trace_divisor": 0.0}, "trace_divisor"),
            ({"optimizer": "lion"}, "optimizer as one of adam, sgd"),
            ({"lr": -1.0}, "lr"),
            ({"lr": math.inf}, "lr"),
            ({"betas": (0.9, 1.0)}, "betas"),
            ({"eps": 0.0}, "eps"),
            ({"weight_decay": -1.0}, "weight_decay"),
            ({"weight_decay_mode": "adamw"}, "weight_decay_mode"),
            ({"surrogate": "relu"}, "surrogate"),
            ({"slope": 0.0}, "slope"),
        ],
    )
    def test_rule(self, change: dict[str, object], message: str) -> None:
        with pytest.raises(ValueError, match=message):
            OnlineRule(**change)

    def test_rule_round_trip_and_unknown_settings(self) -> None:
        rule = OnlineRule(trace="gated", betas=(0.8, 0.9), v_clamp=True, trace_divisor=3.0)
        assert OnlineRule.from_dict(rule.to_dict()) == rule
        with pytest.raises(ValueError, match="unknown settings momentum"):
            OnlineRule.from_dict({"momentum": 0.9})

    def test_shapes_dtypes_and_devices(self) -> None:
        weights, x, y = make_problem((8, 5, 6), 3, 2, torch.float32)
        rule = OnlineRule()
        cases = [
            ((weights[0], x, y), TypeError, "list of tensors"),
            (([], x, y), TypeError, "non-empty list"),
            (([weights[1]], x, y), ValueError, r"weights\[0\] of shape \[out, 8\], got \[6, 5\]"),
            (([weights[0], weights[0]], x, y), ValueError, r"weights\[1\] of shape \[out, 5\], got \[5, 8\]"),
            (([weights[0], weights[1].double()], x, y), TypeError, "one dtype"),
            (([w.half() for w in weights], x, y), TypeError, "float32 or float64, got torch.float16"),
            ((weights, x[0], y), ValueError, r"inputs of shape \[T, B, N\]"),
            ((weights, x, y[:2]), ValueError, r"targets of shape \[3, 2, 6\], got \[2, 2, 6\]"),
            ((weights, x * 0.5, y), ValueError, "zeros and ones"),
            (([w.to("meta") for w in weights], x, y), ValueError, "on cpu, got it on meta"),
        ]
        for (w, inputs, targets), error, message in cases:
            with pytest.raises(error, match=message):
                online.online_batch_(w, inputs, targets, rule)

    @pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
    def test_weights_that_are_not_finite_are_refused_untouched(self, device: str, value: float) -> None:
        weights, x, y = make_problem((8, 5, 6), 3, 2, torch.float32)
        weights[1][2, 3] = value
        weights, x, y = [w.to(device) for w in weights], x.to(device), y.to(device)
        copies = [w.clone() for w in weights]
        with pytest.raises(ValueError, match="finite weights"):
            online.online_batch_(weights, x, y, OnlineRule())
        assert torch.equal(weights[0], copies[0])

    def test_a_learning_rate_far_too_large_is_reported(self, device: str) -> None:
        weights, x, y = make_problem((8, 5, 6), 3, 2, torch.float32)
        with pytest.raises(FloatingPointError, match="NaN or infinite at lr"):
            learn(device, weights, x, y, OnlineRule(optimizer="sgd", lr=1e38, weight_decay=1e38))
