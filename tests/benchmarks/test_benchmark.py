"""A whole benchmark of a small model with random weights, in this process."""

from __future__ import annotations

import io
import json
import os
import sys
from collections.abc import Sequence
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from rich.console import Console

from raise_mdit.benchmarks import command, learners_at_once, pool_scaling
from raise_mdit.benchmarks.apart import call_apart, call_here, peak_memory
from raise_mdit.benchmarks.pool_scaling import Lazy, measure_pool
from raise_mdit.benchmarks.setting import Sizes, prepare_setting
from raise_mdit.benchmarks.tables import TextTable, as_markdown, duration
from raise_mdit.errors import RunError
from raise_mdit.progress import Silent
from raise_mdit.runs import read_json

# SB3 advises on rollout sizes.
pytestmark = pytest.mark.filterwarnings("ignore:.*truncated mini-batch.*:UserWarning")

VARIANTS = ["naive", "uncached", "cached", "cached_reward_every_2", "cached_top_layers"]
PARTS = ["update", "validation", "env_step", "episode", "training"]
TINY = [
    *("--quick", "--pool", "14", "--validation", "3", "--batch", "3", "--window", "6"),
    *("--steps", "2", "--episodes", "2", "--top-layers", "2", "--max-length", "48"),
    *("--learners", "1", "2", "--device", "cpu", "--precision", "float32"),
]


class Run:
    """What a run printed and wrote."""

    def __init__(self, code: int, out: Path, printed: str, progress: str) -> None:
        self.code = code
        self.printed = printed
        self.progress = progress
        self.folder = out

    @property
    def figures(self) -> dict[str, Any]:
        return dict(json.loads((self.folder / "bench.json").read_text()))

    @property
    def page(self) -> str:
        return (self.folder / "bench.html").read_text()


@pytest.fixture(scope="module")
def tiny(tiny_model: Path, tiny_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """One run that many tests look at."""
    out = tmp_path_factory.mktemp("out")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pool_scaling, "NUM_TIMED_STEPS", 5)
        patch.setattr(command, "QUICK_POOL_SIZES", (200, 400))
        return run(out, "--model", str(tiny_model), "--data", str(tiny_data))


def run(out: Path, *arguments: str) -> Run:
    progress, printed = io.StringIO(), io.StringIO()
    code = command.main(
        [*TINY, "--out", str(out), *arguments],
        call=call_here,
        out=Console(file=printed, soft_wrap=True, width=200),
        err=Console(file=progress, soft_wrap=True),
    )
    return Run(code, out, printed.getvalue(), progress.getvalue())


def test_figures_have_every_variant_and_part(tiny: Run) -> None:
    figures = tiny.figures
    assert tiny.code == 0
    for quantity in ("seconds", "flops"):
        assert list(figures[quantity]) == VARIANTS
        assert all(list(parts) == PARTS for parts in figures[quantity].values())
        assert all(min(parts.values()) > 0 for parts in figures[quantity].values())
    assert figures["training_is_extrapolated"] == [
        "naive",
        "uncached",
        "cached_top_layers",
    ]
    assert min(figures["peak_memory_bytes"].values()) > 1e6
    assert 0 < figures["overhead"]["step_share"] < 1
    assert [each["candidates"] for each in figures["pool_scaling"]] == [200, 400]
    assert [each["learners"] for each in figures["learners_at_once"]] == [1, 2]
    assert "depth" not in figures
    assert figures["machine"]["precision"] == "float32"
    assert figures["setting"]["mean_pool_tokens"] < 48


@pytest.mark.parametrize("quantity", ["seconds", "flops"])
def test_ratios_are_the_quotients_of_naive_and_cached(tiny: Run, quantity: str) -> None:
    figures = tiny.figures
    ratios = figures["ratios" if quantity == "seconds" else "flops_ratios"]
    naive, cached = (figures[quantity][name] for name in ("naive", "cached"))
    assert ratios == {
        part: naive[part] / cached[part]
        for part in ("update", "validation", "env_step", "training")
    }


def test_variants_count_less_work_the_less_they_compute(tiny: Run) -> None:
    flops = tiny.figures["flops"]
    for part in ("update", "validation", "env_step"):
        assert flops["naive"][part] > flops["uncached"][part] > flops["cached"][part]
    assert flops["cached_reward_every_2"]["env_step"] < flops["cached"]["env_step"]


def test_a_step_is_an_update_and_a_validation_pass(tiny: Run) -> None:
    """Of the naive learner nothing is cached, and validation rows never change."""
    parts = tiny.figures["flops"]["naive"]
    assert parts["env_step"] > parts["validation"]
    assert parts["episode"] == pytest.approx(2 * parts["env_step"])
    assert parts["training"] == pytest.approx(parts["validation"] + 2 * parts["episode"])


def test_nothing_but_the_two_files_is_left(tiny: Run) -> None:
    assert sorted(path.name for path in tiny.folder.iterdir()) == ["bench.html", "bench.json"]


def test_progress_and_tables_are_printed(tiny: Run) -> None:
    assert "cached: a policy's training" in tiny.progress
    assert "environment step" in tiny.printed
    assert "Learners at once" in tiny.printed


class Page(HTMLParser):
    """Collects what a page would fetch."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.fetches: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.fetches += [f"{tag} {value}" for name, value in attrs if name in ("src", "href")]


def test_the_page_shows_all_figures_and_needs_no_network(tiny: Run) -> None:
    assert Page(tiny.page).fetches == []
    assert "default-src 'none'" in tiny.page
    for name in ("seconds", "pools", "learners"):
        assert f"figure-{name}" in tiny.page
    assert "cached reward every 2" in tiny.page


def test_too_little_data_is_refused_with_both_numbers(tiny_model: Path, tmp_path: Path) -> None:
    path = tmp_path / "few.jsonl"
    fitting = [{"prompt": f"w{i}", "completion": "w1"} for i in range(20)]
    long = [{"prompt": "w1 " * 60 + f"w{i}", "completion": "w1"} for i in range(8)]
    rows = [*fitting, *long]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    refused = run(
        tmp_path / "out", "--model", str(tiny_model), "--data", str(path), "--validation", "8"
    )
    assert refused.code == 2
    assert "--pool 14 and --validation 8 need 22 rows" in refused.progress


def test_the_playground_is_composed_to_long_rows(tiny_model: Path, tmp_path: Path) -> None:
    setting = prepare_setting(
        Sizes(pool=20, validation=4, max_length=96, window=8, batch_size=4),
        model=str(tiny_model),
        data=None,
        device="cpu",
        precision="float32",
        models=tmp_path,
        scratch=tmp_path,
        progress=Silent(),
    )
    held_out = {row.key for row in setting.validation}
    assert len(setting.pool) == 20
    assert held_out.isdisjoint(setting.pool.ids)
    assert np.mean([row.num_tokens for row in setting.pool.rows]) > 48


def test_a_gpu_that_is_not_there_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    refused = run(tmp_path, "--device", "cuda")
    assert refused.code == 2
    assert "finds no GPU" in refused.progress


def test_learners_that_do_not_fit_are_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise torch.OutOfMemoryError

    monkeypatch.setattr(learners_at_once, "batches", lambda *_: [])
    monkeypatch.setattr(learners_at_once, "stacked_learners", full)
    assert learners_at_once.measure_together(None, 64) is None  # type: ignore[arg-type]


def test_a_step_costs_the_same_in_any_pool(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool_scaling, "NUM_TIMED_STEPS", 5)
    small, large = (measure_pool(size, 0) for size in (500, 5_000))
    assert large.buffer_bytes == small.buffer_bytes
    assert large.env_step_bytes < 1.5 * small.env_step_bytes


def test_lazy_values_are_made_when_asked_for() -> None:
    squares: Sequence[int] = Lazy(10**9, lambda index: index**2)
    assert len(squares) == 10**9
    assert squares[12] == 144


def test_a_call_apart_returns_and_raises_what_the_function_does(tmp_path: Path) -> None:
    assert call_apart(divmod, 7, 2) == (3, 1)
    with pytest.raises(RunError, match="no such file"):
        call_apart(read_json, tmp_path / "absent.json")


@pytest.mark.skipif(sys.platform != "linux", reason="reads what Linux says of a process")
def test_peak_memory_is_no_less_than_what_is_held_now() -> None:
    block = np.ones(2**24)
    held = int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    assert peak_memory(torch.device("cpu")) >= held > block.nbytes


def test_peak_memory_on_a_gpu_is_that_of_its_tensors(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda device: 12)
    assert peak_memory(torch.device("cuda")) == 12


def test_markdown_is_a_table_that_github_reads() -> None:
    text = as_markdown(TextTable("Title", ["", "a"], [["row", "1*"]], ["* a note."]))
    assert text == "**Title**\n\n|  | a |\n| :-- | --: |\n| row | 1* |\n\n\\* a note."


@pytest.mark.parametrize(
    ("seconds", "text"), [(600, "10 min"), (2.5, "2.5 s"), (0.0125, "12.5 ms"), (4e-5, "40 µs")]
)
def test_durations_have_the_unit_that_reads_best(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_help_teaches(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        command.main(["--help"])
    assert stop.value.code == 0
    assert "--learners" in capsys.readouterr().out


def test_counts_are_above_zero(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        command.main(["--pool", "0"])
    assert "--pool" in capsys.readouterr().err
