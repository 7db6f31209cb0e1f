"""The entries are the paper's, every chart and claim finds its cases, and claims are judged as they should be."""

from __future__ import annotations

import base64
import dataclasses
import html
import json
import re
from pathlib import Path
from typing import Any

import pytest

from spikefuse import ops

pytest.importorskip("typer")
pytest.importorskip("rich")
pytest.importorskip("safetensors")
pytest.importorskip("scipy")
pytest.importorskip("soundfile")
pytest.importorskip("matplotlib")
pytest.importorskip("jinja2")
pytest.importorskip("sklearn")

from spikefuse._io.atomic_write import write_atomically
from spikefuse._io.provenance import provenance
from spikefuse.paper.experiments import claims, execute, report, runner
from spikefuse.paper.experiments.cases import FULL, QUICK, Sizes
from spikefuse.paper.experiments.entries import entries, select
from spikefuse.paper.experiments.jobs import ImageJob, Job, SoundJob, with_seed


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


def test_our_own_entries_differ_from_the_recipe_in_what_they_name_alone() -> None:
    recipe, spiking = jobs("F3")["shared, leak 0.1"], jobs("B1")
    assert spiking["SNN, rate 0.3 (recipe)"] == recipe
    assert spiking["SNN, rate 0.7, T 30"] == dataclasses.replace(recipe, max_rate=0.7, steps=30)
    text = jobs("F5")["ANN, Adam, lr 0.001"]
    assert spiking["ANN, lr 0.001, wd 0.0001"] == text
    assert spiking["ANN, lr 0.001, 30 epochs"] == dataclasses.replace(text, weight_decay=0.0, epochs=30)
    assert spiking["ANN, SGD, lr 0.01, wd 0.0001"] == jobs("T1")["AE MNIST, ANN SGD"]
    sound, heard = jobs("F8-9"), jobs("B2")
    assert heard["image rate 0.3, sound rate 0.02"] == sound["shared, data set A"]
    assert heard["image rate 0.5, sound rate 0.02"] == sound["shared at 0.5, data set A"]
    assert heard["image rate 0.5, sound rate 0.05"] == dataclasses.replace(
        sound["shared at 0.5, data set A"], max_rate=0.05
    )
    assert [entry.id for entry in entries(FULL) if entry.beyond] == ["B1", "B2", "B3"]


@pytest.mark.parametrize("sizes", [QUICK, FULL], ids=["quick", "full"])
def test_our_own_entries_cost_little_beside_the_papers(sizes: Sizes) -> None:
    everything = entries(sizes)
    paper = runner.jobs_of([entry for entry in everything if not entry.beyond], sizes)
    whole = runner.jobs_of(everything, sizes)
    assert sum(job.cost for job in whole) < 1.15 * sum(job.cost for job in paper)


def test_every_entry_names_its_own_cases() -> None:
    for entry in entries(QUICK):
        names = [case.name for case in entry.cases]
        assert len(names) == len(set(names))

        def of(case: str, measure: str, names: list[str] = names) -> list[float]:
            assert case in names
            return [1.0]

        for claim in entry.claims:
            claims.judge(claim, of)
        for chart in entry.charts:
            for name in (*chart.cases, *(name for _, group in chart.groups for name in group)):
                assert name in names


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
    with pytest.raises(ValueError, match=r"--only: expected one of F3, .*, T1, B1, B2, B3, got 'F2'"):
        select(everything, ["F2"])


def made_up(job: Job) -> dict[str, Any]:
    """A result with a value for every measure, which depends on the job alone."""
    number = int(job.key, 16) / 16**16
    measures = {"mse": number, "recognised": number, "nearest": number}
    rates = {"input_rate": number, "hidden_rate": number, "output_rate": number}
    spiking = {} if job.method == "ann" else {"spike_mse": number, "error_zeros": number, **rates}
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
        "provenance": provenance(ops.cpu_instruction_set()),
    }


def escaped(text: str) -> str:
    return html.escape(text).replace("&#x27;", "&#39;")  # as jinja2 writes it


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
    paper, ours = page.split("<h2>Our own claims, beyond the paper</h2>")
    assert "<h2>Claims of the paper</h2>" in paper
    for entry in everything:
        heading = f"<h2>{entry.id}: {escaped(entry.title)}"
        assert page.count(heading) == 1
        assert ours.split(heading)[1].split("</h2>")[0].endswith("ours, beyond the paper</small>") == entry.beyond
        for claim in entry.claims:
            assert escaped(claim.text) in (ours if entry.beyond else paper)
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


def test_energy_is_told_where_it_is_asked_for(tmp_path: Path) -> None:
    chosen = select(entries(QUICK), ["F5", "B3"])
    for job in runner.jobs_of(chosen, QUICK):
        write_atomically(execute.result_path(tmp_path / runner.JOBS, job), json.dumps(made_up(job)).encode())
    page = report.write(chosen, QUICK, tmp_path).read_text()
    first, second = page.split("<h2>F5")[1].split("<h2>B3")
    assert "<th>energy" not in first
    assert "<th>energy, µJ" in second
    assert "<td>307,328" in second, "MACs of 784-196-784"


def test_results_without_firing_rates_have_no_energy(tmp_path: Path) -> None:
    chosen = select(entries(QUICK), ["B3"])
    for job in runner.jobs_of(chosen, QUICK):
        result = made_up(job)
        result["results"]["test"].pop("input_rate", None)
        write_atomically(execute.result_path(tmp_path / runner.JOBS, job), json.dumps(result).encode())
    with pytest.raises(ValueError, match=r"expected a measure of 'MNIST, SNN .*got 'energy.microjoules'"):
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
        assert self.outcome(claims.higher("c", "a", "mse")) == "confirmed"
        assert self.outcome(claims.higher("a", "b", "mse")) == "not confirmed"
        assert self.outcome(claims.at_least("c", 0.84, "mse")) == "in some seeds"

    def test_a_bound_that_is_reached_holds(self) -> None:
        assert self.outcome(claims.at_least("c", 0.8, "mse")) == "confirmed"
        assert self.outcome(claims.between("c", 0.8, 0.9, "mse")) == "confirmed"


def test_seeds_make_other_jobs_and_nothing_else() -> None:
    job = jobs("F8-9")["shared, data set A"]
    other = with_seed(job, 1)
    assert other.key != job.key
    assert with_seed(other, 0) == job
