"""What a view makes of a run's events, without a kernel or ranks."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest

from accelnb.engine.events import Display, Progress, Skipped, Stalled, Stream, Usage
from accelnb.engine.failure import Failure
from accelnb.engine.run import Run
from accelnb.engine.run_log import RunLog
from accelnb.engine.wire.reports import Bar, Packet
from accelnb.notebook.views.live_view import log as log_module
from accelnb.notebook.views.live_view.charts import line_chart
from accelnb.notebook.views.live_view.run_state import Bounds, RunState, Seen, state_of
from accelnb.notebook.views.live_view.static_html import html_of, text_of
from accelnb.options.config import LaunchConfig


class Shown:
    """A run, and the state that its events make."""

    def __init__(self, folder: Path, ranks: int = 2, **config: Any) -> None:
        self.run = Run(range(ranks), RunLog(folder), stop=lambda run, reason: None)
        self.state = RunState(self.run, LaunchConfig(device="cpu", **config))

    def write(self, rank: int, text: str, stream: str = "stdout") -> None:
        self.state.take(Stream(rank, stream, text))

    def stream(self, rank: int, name: str, *values: float, start: int = 0) -> None:
        packets = [Packet(name, "scalar", start + at, float(at), v) for at, v in enumerate(values)]
        self.run.take_streamed(rank, packets, 0)
        while (event := self.run.next_event(0)) is not None:
            self.state.take(event)

    def later(self) -> None:
        """Let pass what lines are held for."""
        self.state.refresh(time.monotonic() + 1)

    def end(self) -> None:
        for rank in self.run.ranks:
            self.run.rank_done(rank)
        self.run.finish()
        self.state.finish()

    def lines(self) -> list[str]:
        return self.state.log.labelled(self.state.log.beginning_and_end(10_000))


@pytest.fixture
def shown(tmp_path: Path) -> Shown:
    return Shown(tmp_path)


def test_equal_lines_are_one_and_unfinished_ones_grow(shown):
    shown.write(0, "epoch 1\nmine\nhal")
    shown.write(1, "epoch 1\n")
    shown.later()
    assert shown.lines() == ["[0-1] epoch 1", "[0] mine"]
    growing = shown.state.log.growing(time.monotonic() + 1)
    assert shown.state.log.labelled(growing) == ["[0] hal"]
    assert shown.state.rows()[0]["line"] == "hal"
    shown.write(0, "f\n\r10 %\r20 %\n")
    shown.later()
    assert shown.lines()[-2:] == ["[0] half", "[0] 20 %"]


@pytest.mark.parametrize(
    ("logs", "expected"),
    [("all", ["[0] a", "[1] a"]), ("rank0", ["a"])],
)
def test_which_ranks_are_shown_is_the_users_choice(tmp_path, logs, expected):
    shown = Shown(tmp_path, logs=logs)
    for rank in (0, 1):
        shown.write(rank, "a\n")
    shown.later()
    assert shown.lines() == expected


def test_of_a_flood_the_end_is_kept_and_counted(shown):
    for start in range(0, 200_000, 2_000):
        shown.write(0, "".join(f"line {n}\n" for n in range(start, start + 2_000)))
    shown.later()
    lines = shown.lines()
    assert lines[-1] == "[0] line 199999"
    left_out = 200_000 - (len(lines) - 1)
    assert f"[... {left_out:,} more lines, in full in " in lines[0]
    assert len(lines) <= log_module.NEWEST


def test_a_flood_costs_little_more_than_counting_it(shown):
    text = "".join(f"line {n} of a rank, as a log has them\n" for n in range(2_000))
    start = time.process_time()
    for _ in range(500):
        shown.write(0, text)
        shown.write(1, text)
        shown.state.refresh(time.monotonic())
    assert time.process_time() - start < 2.0  # 2,000,000 lines


def test_a_long_output_ends_as_its_beginning_and_its_end(shown):
    shown.write(0, "".join(f"line {n}\n" for n in range(2_000)))
    shown.end()
    lines = shown.state.log.labelled(shown.state.log.beginning_and_end(500))
    assert (lines[0], lines[-1]) == ("[0] line 0", "[0] line 1999")
    assert lines[250].startswith("[... 1,500 more lines, in full in ")
    assert len(lines) == 501


def test_news_are_told_once_and_a_snapshot_tells_all(shown):
    seen = Seen()
    shown.write(0, "one\n")
    shown.later()
    shown.stream(0, "loss", 3.0, 2.0)
    assert [line[2] for line in shown.state.news(seen)["lines"]] == ["one"]
    shown.write(0, "two\n")
    shown.later()
    shown.stream(0, "loss", 1.0, start=2)
    news = shown.state.news(seen)
    assert (news["first_line"], news["lines"]) == (1, [[[0], "stdout", "two"]])
    assert news["points"] == {"loss": {"0": [[2, 1.0]]}}
    whole = shown.state.news(Seen())
    assert [line[2] for line in whole["lines"]] == ["one", "two"]
    assert len(whole["points"]["loss"]["0"]) == 3


def test_what_is_told_is_bounded_and_plain_json(shown):
    shown.stream(0, "loss", *range(100_000), float("nan"), float("inf"), float("-inf"))
    shown.write(0, "x" * 100_000 + "\n" + "y\n" * 4_000)
    shown.later()
    news = shown.state.news(Seen(), Bounds(lines=100, characters=10_000, points=1_000))
    assert len(news["points"]["loss"]["0"]) == 1_000
    assert news["points"]["loss"]["0"][-1] == [100_002, "-inf"]
    assert len(news["lines"]) == 100
    assert news["skipped"] == 3_901
    assert shown.state.leaves_out(news)
    json.dumps(news, allow_nan=False)
    whole = shown.state.news(Seen())
    assert len(whole["lines"][0][2]) < 11_000
    assert not shown.state.leaves_out({**whole, "points": {"loss": {"0": [0] * 100_003}}})


def test_rows_say_how_each_rank_is(shown):
    shown.stream(0, "loss", 0.5, 0.4, 0.3, 0.2)
    shown.state.take(Usage(1, 123, None))
    bar = Bar("train#1", "train", 7, 9, "it", 2.5, "7/9", closed=False)
    shown.state.take(Progress(1, (bar,)))
    first, second = shown.state.rows()
    assert (first["step"], first["rate"], first["state"]) == (3, 1.0, "running")
    assert (second["step"], second["rate"], second["memory"]) == (7, 2.5, 123)
    shown.state.take(Stalled("nobody moves", {0: "waiting in barrier"}))
    assert [row["state"] for row in shown.state.rows()] == ["waiting in barrier", "running"]
    assert shown.state.banners() == [{"kind": "stall", "text": "nobody moves"}]
    shown.write(1, "moves\n")
    assert shown.state.banners() == []
    shown.run.rank_failed(Failure(1, "ValueError", "no", where="Cell In[2], line 3"))
    shown.run.rank_done(0)
    assert [row["state"] for row in shown.state.rows()] == ["done", "failed"]
    said = "rank 1: ValueError: no (Cell In[2], line 3)"
    assert shown.state.banners() == [{"kind": "error", "text": said}]


def test_a_bar_that_leaves_nothing_goes_and_a_changed_total_is_the_same_bar(shown):
    def tell(rank: int, done: int, total: int, text: str, closed: bool = False) -> None:
        bar = Bar("#1", "", done, total, "it", None, text, closed)
        shown.state.take(Progress(rank, (bar,)))

    tell(0, 1, 10, "1/10")
    tell(1, 2, 20, "2/20")
    tell(0, 3, 20, "3/20")
    [bar] = shown.state.bars.merged()
    assert (bar["done"], bar["total"], bar["by_rank"]) == (2, 20, {"0": 3, "1": 2})
    for rank in (0, 1):
        tell(rank, 20, 20, "", closed=True)
    assert shown.state.bars.merged() == []


def test_a_cleared_output_starts_anew_in_its_place(shown):
    shown.write(0, "before\n")
    for rank in (0, 1):
        shown.state.take(Display(rank, "clear_output", {"wait": False}))
    shown.write(0, "after\n")
    shown.later()
    assert shown.lines() == ["[0] after"]
    assert [item.name for item, _ in shown.state.log.displays()] == ["clear_output"]


def test_lines_that_came_too_fast_are_named(shown):
    shown.state.take(Skipped(1, "stdout", 7))
    assert shown.lines()[0].startswith("[1] [... 7 more lines, in full in ")


def test_an_output_of_lines_only_ends_as_these_and_a_quiet_line(shown):
    shown.write(0, "\x1b[31m<red>\x1b[0m\n")
    shown.end()
    page = html_of(shown.state)
    assert "&lt;red&gt;" in page
    assert "<red>" not in page
    assert page.index("red") < page.index("done in")
    assert "<table>" not in page
    assert text_of(shown.state).endswith("done in 0.0 s on 2 cpu ranks")


def test_the_end_state_has_charts_and_values_and_no_script(shown):
    for rank in (0, 1):
        shown.stream(rank, "<loss>", 3.0, float("nan"), 0.5 + rank)
    shown.end()
    page = html_of(shown.state)
    assert "&lt;loss&gt;" in page
    assert "1.5" in page
    assert page.count("data:image/svg+xml") == 1
    assert "<script" not in page
    assert "<style" not in page
    assert "[1] 1.5" in text_of(shown.state)


def test_a_chart_needs_a_number_and_shows_many_ranks_as_a_band(tmp_path):
    shown = Shown(tmp_path, ranks=12)
    for rank in range(12):
        shown.stream(rank, "loss", *(float(rank + step) for step in range(3)))
        shown.stream(rank, "none", float("nan"))
    assert line_chart(shown.run["none"]) is None
    chart = line_chart(shown.run["loss"])
    assert chart is not None
    assert "mean 7.5 of 12 ranks" in html_of(shown.state)


def test_a_run_that_no_view_followed_is_read_from_its_log(tmp_path):
    run = Run(range(2), RunLog(tmp_path), stop=lambda run, reason: None)
    for rank in (0, 1):
        run.deliver(Stream(rank, "stdout", f"from {rank}\n"))
    assert "[1] from 1" in text_of(state_of(run))


def test_a_run_is_let_go_of_with_its_state(tmp_path):
    import gc
    import weakref

    shown = Shown(tmp_path)
    shown.write(0, "line\n")
    shown.end()
    run = weakref.ref(shown.run)
    gc.disable()
    try:
        del shown
        assert run() is None
    finally:
        gc.enable()


def test_ranks_that_share_a_model_say_how_once_and_where_each_is(tmp_path):
    mesh = (("dp_shard", 2), ("tp", 2))
    shown = Shown(tmp_path, ranks=4, procs=4, strategy="fsdp", mesh=mesh)
    for rank in range(4):
        shown.state.take(Usage(rank, (400 + rank) * 10**6, None))
    assert shown.state.info(can_stop=False)["sharing"] == "data 2 x tensor 2; each rank holds 1/4"
    assert shown.state.rows()[3]["place"] == "dp_shard 1, tp 1"
    shown.end()
    said = "4 cpu ranks: data 2 x tensor 2; each rank holds 1/4; 400 MB to 403 MB of memory at most"
    assert said in text_of(shown.state)
    usual = Shown(tmp_path, ranks=2, procs=2, mesh=(("dp_replicate", 2),))
    assert not usual.state.info(can_stop=False)["sharing"]
    assert usual.state.rows()[1]["place"] == ""
