"""A flood of output: whole in the log, small in the notebook, and nothing else suffers."""

from __future__ import annotations

import threading

import psutil
import pytest

pytestmark = pytest.mark.alone  # it measures time

MiB = 1 << 20


def test_two_ranks_of_50_000_lines_are_whole_in_the_log(shared_notebook):
    run = shared_notebook.run
    output = run(
        "%%distributed\nfor i in range(50_000): print(f'line {i} of rank {rank}')", timeout=60
    )
    assert len(output.lines) < 2_100
    shown = output.displays[-1]["text/plain"].splitlines()
    assert len(output.displays) == 1
    assert len(shown) < 40
    assert "more lines, in full in" in shown[0]
    assert shown[-2:] == ["[0] line 49999 of rank 0", "[1] line 49999 of rank 1"]
    run("import accelnb\nrun = accelnb.last_run()")
    for rank in (0, 1):
        whole = f"[f'line {{i}} of rank {rank}' for i in range(50_000)]"
        assert run(f"run.logs({rank}).splitlines() == {whole}").value == "True"


def test_a_million_lines_take_no_memory_and_the_others_are_heard_meanwhile(shared_notebook):
    run = shared_notebook.run
    processes = [psutil.Process(shared_notebook.pid), *shared_notebook.processes()]
    before = [process.memory_info().rss for process in processes]
    seen = []

    def note(output):
        if "[1] other" in output.stdout + "".join(d["text/plain"] for d in output.displays):
            seen.append(len(output.displays) and output.displays[-1]["text/plain"][:30])

    run(
        "%%distributed\nimport time\nif rank == 1:\n    time.sleep(0.5); print('other')\n"
        "else:\n    for i in range(1_000_000): print('line', i)",
        timeout=90,
        on_output=note,
    )
    assert seen
    for process, had in zip(processes, before, strict=True):
        assert process.memory_info().rss - had < 40 * MiB
    run("import accelnb\nlines = accelnb.last_run().logs(0).splitlines()")
    assert run("len(lines), lines[0], lines[-1]").value == "(1000000, 'line 0', 'line 999999')"
    run("del lines")


def test_a_flood_can_be_stopped(shared_notebook):
    run = shared_notebook.run
    threading.Timer(1.0, shared_notebook.interrupt).start()
    output = run("%%distributed\nkept = 1\nwhile True: print('flood')", fails=True, timeout=40)
    assert "stopped ranks 0-1; variables are kept" in output.error
    assert output.seconds < 8
    assert run("%distributed kept").lines == ["[0-1] 1"]


def test_a_line_of_50_megabytes(shared_notebook):
    run = shared_notebook.run
    kernel = psutil.Process(shared_notebook.pid)
    before = kernel.memory_info().rss
    output = run("%%distributed --ranks 0\nprint('x' * 50_000_000)\nprint('after')", timeout=60)
    shown = output.stdout + "".join(display["text/plain"] for display in output.displays)
    assert len(shown) < 60_000
    assert "more characters, in full in" in shown
    assert "[0] after" in shown
    assert kernel.memory_info().rss - before < 100 * MiB
    run("import accelnb")
    assert run("len(accelnb.last_run().logs(0))").value == str(50_000_000 + len("\nafter\n"))


def test_lines_of_threads_and_of_a_subprocess_are_not_torn(shared_notebook):
    run = shared_notebook.run
    run(
        """%%distributed --ranks 0
import subprocess, threading
def work(letter):
    for _ in range(2_000): print(letter * 60)
threads = [threading.Thread(target=work, args=(letter,)) for letter in "abc"]
for thread in threads: thread.start()
subprocess.run("for i in $(seq 500); do echo " + "s" * 60 + "; done", shell=True)
for thread in threads: thread.join()"""
    )
    run("import accelnb, collections\nlines = accelnb.last_run().logs(0).splitlines()")
    assert run("sorted(collections.Counter((l[0], len(l)) for l in lines).items())").value == (
        "[(('a', 60), 2000), (('b', 60), 2000), (('c', 60), 2000), (('s', 60), 500)]"
    )


def test_the_run_goes_on_when_its_log_cannot_be_written(shared_notebook):
    run = shared_notebook.run
    run(
        "from accelnb.engine import run_log as logs\nimport pathlib\n"
        "open_file = logs.RunLog._open\n"
        "def full(self, rank, stream): return open('/dev/full', 'wb', buffering=0)\n"
        "logs.RunLog._open = full"
    )
    try:
        output = run("%%distributed\nprint('seen')")
    finally:
        run("logs.RunLog._open = open_file")
    assert output.lines == ["[0-1] seen"]
    assert "ends early: No space left on device" in output.stderr
