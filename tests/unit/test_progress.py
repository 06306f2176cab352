"""What a rank tells of its progress bars, and how often."""

from __future__ import annotations

import json
import subprocess
import sys
import threading

import pytest

from accelnb.worker.progress.bars import Bars, Position, ToldBar, state

BEFORE, LATER = "import tqdm.auto, rich.progress", ""

# A rank's process without the rest of a rank: `told` is what the notebook would hear.
RANK = """
import gc, io, json, os, sys, threading, time
{imports}
from accelnb.worker import progress
from accelnb.worker.progress.bars import Bars, Position
from accelnb.worker.output import install_writers
install_writers()
bars = Bars(threading.Thread(), lambda: Position(0, []))
progress.watch(bars)
from tqdm.auto import tqdm
from rich.progress import Progress, track
{code}
sys.__stdout__.write(json.dumps(bars.take(0)) + "\\n")
"""


def told_by(code: str, imports: str = LATER) -> tuple[list[dict], str]:
    """Return the bars that a rank tells, and what it writes to stderr."""
    script = RANK.format(imports=imports, code=code)
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=30, check=True
    )
    return json.loads(done.stdout.splitlines()[-1]), done.stderr


@pytest.fixture
def bars() -> Bars:
    return Bars(threading.Thread(), lambda: Position(0, []))


def at(done: int, closed: bool = False, text: str = "bar"):
    return state("train", done, 10_000, "it", None, text, closed)


def test_ten_thousand_updates_a_second_are_ten_messages_and_the_last_is_the_end(bars):
    bar, heard = ToldBar(), []
    for step in range(10_000):
        bars.tell(bar, at(step))
        if bars.due(step / 10_000, 0):
            heard.append(bars.take(step / 10_000))
    bars.tell(bar, at(10_000, closed=True))
    assert bars.due(1.0, 0)  # the end of a bar does not wait for its turn
    heard.append(bars.take(1.0))
    assert len(heard) <= 10
    assert [told["done"] for message in heard for told in message] == sorted(
        told["done"] for message in heard for told in message
    )
    assert (heard[-1][0]["done"], heard[-1][0]["closed"]) == (10_000, True)


def test_a_bar_that_left_nothing_before_it_was_told_is_not_told(bars):
    seen, unseen = ToldBar(), ToldBar()
    bars.tell(seen, at(1))
    bars.take(0)
    for bar in (seen, unseen):
        bars.tell(bar, at(2))
        bars.tell(bar, at(2, closed=True, text=""))
    assert [told["key"] for told in bars.take(1)] == [seen.key]


def test_the_end_of_a_cell_ends_its_bars_and_a_late_redraw_does_not_bring_them_back(bars):
    bar = ToldBar()
    bars.tell(bar, at(5))
    bars.end()
    assert [told["closed"] for told in bars.take(0)] == [True]
    bars.begin()
    bars.tell(bar, at(5))
    bars.tell(bar, at(5, closed=True))
    assert not bars
    bars.tell(bar, at(6))
    assert [told["done"] for told in bars.take(1)] == [6]


def test_bars_that_are_too_many_to_wait_become_lines(bars, capfd):
    for number in range(1_500):
        bar = ToldBar()
        bars.tell(bar, at(0))
        bars.tell(bar, at(1, closed=True, text=f"bar {number}"))
    assert len(bars) == 1_000
    assert capfd.readouterr().err.splitlines() == [f"bar {n}" for n in range(1_000, 1_500)]


@pytest.mark.parametrize("imports", [BEFORE, LATER], ids=["imported-before", "imported-later"])
def test_tqdm_and_rich_tell_their_bars_and_write_nothing(imports):
    told, stderr = told_by(
        "for _ in tqdm(range(3), desc='epoch', unit='B', colour='green'): pass\n"
        "for _ in tqdm(range(2), disable=None): pass\n"  # Hugging Face: only on a terminal
        "with Progress() as progress:\n"
        "    task = progress.add_task('[red]load', total=4); progress.advance(task, 3)\n",
        imports,
    )
    assert stderr == ""
    assert [(t["label"], t["done"], t["total"], t["unit"], t["closed"]) for t in told] == [
        ("epoch", 3, 3, "B", True),
        ("", 2, 2, "it", True),
        ("load", 3, 4, "it", True),
    ]
    assert "epoch: 100%|██████████| 3/3" in told[0]["text"]
    assert "75%" in told[2]["text"]
    assert not any("\x1b" in t["text"] for t in told)


def test_bars_drawn_elsewhere_and_those_of_a_child_process_stay_alone():
    told, stderr = told_by(
        "file = io.StringIO()\n"
        "for _ in tqdm(range(3), file=file): pass\n"
        "assert '3/3' in file.getvalue()\n"
        "if os.fork() == 0:\n"
        "    for _ in tqdm(range(7)): pass\n"
        "    os._exit(0)\n"
        "os.wait()"
    )
    assert told == []
    assert "7/7" in stderr


def test_a_bar_that_the_link_thread_finds_as_garbage_ends_without_tqdms_lock():
    told, _ = told_by(
        "bar = tqdm(total=9); bar.update(4); bar.refresh(); bar.itself = bar\n"
        "bars.carrier = threading.Thread(target=gc.collect)\n"
        "with tqdm.get_lock():  # its holder may wait for the link thread to read what it prints\n"
        "    del bar\n"
        "    bars.carrier.start(); bars.carrier.join(5)\n"
        "    assert not bars.carrier.is_alive()\n"
    )
    assert [(t["done"], t["closed"]) for t in told] == [(4, True)]
