"""The entries are the paper's, every chart and claim finds its cases, and claims are judged as they should be."""

from __future__ import annotations

import base64
import json
import re
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("typer")
pytest.importorskip("rich")
pytest.importorskip("safetensors")
pytest.importorskip("scipy")
pytest.importorskip("soundfile")
pytest.importorskip("matplotlib")
pytest.importorskip("jinja2")
pytest.importorskip("sklearn")

from spikefuse.files import write_atomically
from spikefuse.provenance import provenance
from spikefuse.reproduce import claims, execute, report, runner
from spikefuse.reproduce.cases import FULL, QUICK, Sizes
from spikefuse.reproduce.entries import entries, select
from spikefuse.reproduce.jobs import ImageJob, Job, SoundJob, with_seed


def jobs(entry: str, sizes: Sizes = FULL) -> dict[str, Job]:
    return {case.name: case.job for case in select(entries(sizes), [entry])[0].cases}


def test_settings_are_the_papers() -> None:
    text = {"dataset": "mnist", "hidden": 196, "steps": 15, "batch_size": 100, "lr": 5e-4, "leak": 0.1, "epochs": 1}
    for reading, rate, decay in (("shared", 0.3, 0.0), ("gated", 1.0, 1e-4)):
        job = jobs("F3")[f"{reading}, leak 0.1"]
        assert isinstance(job, ImageJob)
        settings = job.settings()
        assert {name: settings[name] for name in text} == text
        assert (job.method, job.max_rate, job.weight_decay, job.limit) == (reading, rate, decay, None)
        assert jobs("F4")[f"{reading}, T 15"] == job, "one training for all figures that show it"
    fashion = jobs("F6")["SNN-1024 gated"]
    assert isinstance(fashion, ImageJob)
    assert (fashion.steps, fashion.lr, fashion.hidden, fashion.leak) == (60, 5e-4, 1024, 0.1)
    ann = jobs("F6")["ANN-512 adam"]
    assert isinstance(ann, ImageJob)
    assert (ann.lr, ann.weight_decay, ann.batch_size, ann.hidden) == (5e-3, 1e-4, 100, 512)
    sound = jobs("F8-9")["gated, data set B"]
    assert isinstance(sound, SoundJob)
    assert (sound.hidden, sound.steps, sound.epochs, sound.lr, sound.leak) == (2048, 60, 20, 5e-5, 0.1)
    assert (sound.weight_decay, sound.batch_size, sound.pairing, sound.duration) == (1e-4, 50, "B", 10)
    assert (sound.max_rate, sound.autoencoder) == (0.02, jobs("F3")["gated, leak 0.1"])
    coder = jobs("F10")["ANN adam, 2 bits"]
    assert isinstance(coder, SoundJob)
    assert (coder.duration, coder.lr, coder.weight_decay, coder.epochs) == (2, 1e-4, 1e-4, 20)
    assert {job.duration for job in jobs("F10").values() if isinstance(job, SoundJob) and job.method == "shared"} == {
        15, 10, 5, 2, 1,
    }  # fmt: skip


def test_jobs_are_run_once_and_in_an_order_that_works() -> None:
    order = runner.jobs_of(entries(FULL), FULL)
    keys = [job.key for job in order]
    assert len(keys) == len(set(keys))
    for place, job in enumerate(order):
        if isinstance(job, SoundJob):
            assert job.autoencoder.key in keys[:place]
            assert job.autoencoder.seed == job.seed


def test_select() -> None:
    everything = entries(QUICK)
    assert select(everything, None) == everything
    assert [entry.id for entry in select(everything, ["t1", "F8"])] == ["F8-9", "T1"]
    with pytest.raises(ValueError, match=r"--only: expected one of F3, .*, T1, got 'F2'"):
        select(everything, ["F2"])


def made_up(job: Job) -> dict[str, Any]:
    """A result with a value for every measure, which depends on the job alone."""
    number = int(job.key, 16) / 16**16
    measures = {"mse": number, "recognised": number, "hidden_rate": number}
    spiking = {} if job.method == "ann" else {"spike_mse": number, "error_zeros": number}
    results = {"train": measures | spiking, "test": measures | spiking}
    curves: dict[str, list[float]] = {"batch": [1.0, number]}
    if isinstance(job, SoundJob):
        results["baselines"] = {"mean_image": 0.7, "random_class": 1.2}
        curves = {"epoch": [1.0, number]}
    elif spiking:
        results["training"] = {"error_zeros": number}
    return {
        "schema": execute.SCHEMA,
        "key": job.key,
        "results": results,
        "curves": curves,
        "provenance": provenance(),
    }


@pytest.mark.parametrize("sizes", [QUICK, FULL], ids=["quick", "full"])
def test_the_report_shows_every_entry_and_claim_and_needs_no_other_file(sizes: Sizes, tmp_path: Path) -> None:
    everything = entries(sizes)
    for job in runner.jobs_of(everything, sizes):
        write_atomically(execute.result_path(tmp_path / runner.JOBS, job), json.dumps(made_up(job)).encode())
    page = report.write(everything, sizes, tmp_path).read_text()
    told = [claim for entry in everything for claim in entry.claims]
    assert page.count('<td class="confirmed">') + page.count('<td class="not">') + page.count(
        '<td class="some">'
    ) == len(told)
    charts = sum(chart.kind != "pictures" for entry in everything for chart in entry.charts)
    pictures = re.findall(r'src="([^"]*)"', page)
    assert len(pictures) == charts == len(list((tmp_path / report.CHARTS).iterdir()))
    for picture in pictures:
        assert base64.b64decode(picture.removeprefix("data:image/png;base64,")).startswith(b"\x89PNG")
    assert "http" not in page
    assert page.count(sizes.name) >= 1 + len(everything), "said with every entry"
    for entry in everything:
        assert f"{entry.id}: " in page
        for case in entry.cases:
            assert case.name in page


def test_a_damaged_result_is_told(tmp_path: Path) -> None:
    chosen = select(entries(QUICK), ["F5"])
    for job in runner.jobs_of(chosen, QUICK):
        write_atomically(execute.result_path(tmp_path / runner.JOBS, job), json.dumps(made_up(job)).encode())
    path = execute.result_path(tmp_path / runner.JOBS, runner.jobs_of(chosen, QUICK)[0])
    for content in (b"{", b"[]", b'{"schema": 1, "key": "another"}'):
        path.write_bytes(content)
        with pytest.raises(ValueError, match="delete it to run it again"):
            report.write(chosen, QUICK, tmp_path)


VALUES = {"a": [0.2, 0.3], "b": [0.5, 0.25], "c": [0.9, 0.8]}


class TestClaims:
    def outcome(self, *comparisons: claims.Comparison) -> str:
        verdict = claims.judge(claims.Claim("", "", comparisons), lambda case, measure: VALUES[case])
        assert len(verdict.details) == len(comparisons)
        return verdict.outcome

    def test_the_worst_comparison_decides(self) -> None:
        holds, partly, fails = (claims.lower(*pair, "mse") for pair in (("a", "c"), ("a", "b"), ("c", "a")))
        assert self.outcome(holds) == "confirmed"
        assert self.outcome(holds, partly) == "in some seeds"
        assert self.outcome(holds, partly, fails) == "not confirmed"

    def test_equal_values_confirm_nothing(self) -> None:
        assert self.outcome(claims.lower("a", "a", "mse")) == "not confirmed"

    def test_ranges_gains_and_nearness(self) -> None:
        assert self.outcome(claims.between("c", 0.7, 1.0, "mse")) == "confirmed"
        assert self.outcome(claims.between("c", 0.7, 0.75, "mse")) == "not confirmed"
        assert self.outcome(claims.near("b", "a", "mse", 2.0)) == "confirmed"
        assert self.outcome(claims.near("c", "a", "mse", 0.1)) == "not confirmed"
        assert self.outcome(claims.larger_gain(("c", "b"), ("b", "a"), "mse")) == "confirmed"


def test_seeds_make_other_jobs_and_nothing_else() -> None:
    job = jobs("F8-9")["shared, data set A"]
    other = with_seed(job, 1)
    assert other.key != job.key
    assert with_seed(other, 0) == job
