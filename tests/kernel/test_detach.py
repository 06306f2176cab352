"""`--detach`: the notebook is free while the cell runs."""

from __future__ import annotations

import queue
import time

import pytest
from harness import wait_until

pytestmark = pytest.mark.alone  # it measures time

CELL = """%%distributed --detach --out run
import accelnb, time
for step in range({steps}):
    print("step", step)
    accelnb.stream("loss", 1 / (step + 1))
    time.sleep(0.05)
rank * 7"""


def test_the_notebook_is_free_and_sees_the_run_grow(shared_notebook):
    run = shared_notebook.run
    started = run(CELL.format(steps=60))
    assert started.seconds < 1.5  # the cell takes 3
    assert "running" in started.displays[0]["text/plain"]
    assert wait_until(lambda: int(run("len(run.logs(0).splitlines())").value) > 5, 5)
    assert run("run.done, 0 < len(run.metrics['loss'][1]) < 60").value == "(False, True)"
    assert "busy" in run("%accelnb status").stdout
    assert "In[" in run("%accelnb stacks").stdout
    assert "running" in run("run").value
    for busy in ("%distributed 1", "%distributed --procs 3 1", "%accelnb pull step"):
        assert "the ranks are busy for " in run(busy, fails=True).error
    assert run("list(run.result), run.wait(1), run.state").value == "([0, 7], True, 'done')"
    assert run("run.logs(1).splitlines()[-1]").value == "'step 59'"
    assert run("%distributed step").lines == ["[0-1] 59"]


def test_its_display_is_updated_in_place_until_it_is_done(shared_notebook):
    client = shared_notebook.client
    client.execute(CELL.format(steps=25))
    texts, ids, end = [], set(), time.monotonic() + 20
    while time.monotonic() < end and not (texts and "done" in texts[-1]):
        try:
            message = client.get_iopub_msg(timeout=1)
        except queue.Empty:
            continue
        if "data" in message["content"]:
            texts.append(message["content"]["data"]["text/plain"])
            ids.add(message["content"]["transient"].get("display_id"))
    assert len(ids) == 1
    assert len(texts) > 3
    assert "on ranks 0-1: done" in texts[-1]
    assert "[0-1] step 24" in texts[-1]
    assert "loss  step 24" in texts[-1]


def test_interrupt_stops_it_and_keeps_the_ranks(shared_notebook):
    run = shared_notebook.run
    run("%%distributed --detach --out run\nkept = 3\nwhile True: pass")
    assert run("run.wait(0.3)").value == "False"
    run("%accelnb interrupt")
    assert run("run.wait(6), run.state").value == "(True, 'stopped')"
    assert "KeyboardInterrupt: stopped ranks 0-1" in run("run.result", fails=True).error
    assert run("%distributed kept").lines == ["[0-1] 3"]


def test_its_error_is_raised_where_the_result_is_asked_for(shared_notebook):
    run = shared_notebook.run
    run("%%distributed --detach --out run\nif rank == 1:\n    raise ValueError('oops')")
    assert run("run.wait(6), run.state").value == "(True, 'failed')"
    error = run("run.result", fails=True).error
    assert "RankError: rank 1: ValueError: oops (Cell In[" in error
    assert ", line 3)" in error


def test_without_a_name_the_run_is_the_cells_value(shared_notebook):
    output = shared_notebook.run("%%distributed --detach\n1")
    assert output.value.startswith("<Run on ranks 0-1")
    assert shared_notebook.run("list(_.result)").value == "[1, 1]"


def test_a_run_ends_when_its_ranks_are_shut_down(notebook):
    notebook.run("%%distributed --procs 2 --detach --out run\nwhile True: pass")
    notebook.run("%accelnb shutdown")
    assert notebook.run("run.wait(5), run.state").value == "(True, 'failed')"
    assert "RankError: ranks 0-1 were shut down" in notebook.run("run.result", fails=True).error
    assert notebook.run("%distributed --procs 2 rank").lines == ["[0] 0", "[1] 1"]


def test_displays_of_a_detached_cell_are_updated_in_place(shared_notebook):
    client = shared_notebook.client
    client.execute(
        "%%distributed --detach --out run\nfrom IPython.display import HTML, display\n"
        "handle = display(HTML('0'), display_id=True)\n"
        "for i in range(1, 4): handle.update(HTML(str(i)))"
    )
    shown: dict[str, list[str]] = {}
    made, end = [], time.monotonic() + 20
    while time.monotonic() < end and not [v for v in shown.values() if v[-1] == "3"][1:]:
        try:
            message = client.get_iopub_msg(timeout=1)
        except queue.Empty:
            continue
        if "text/html" in message["content"].get("data", {}):
            made += [1] * (message["msg_type"] == "display_data")
            of = message["content"]["transient"]["display_id"]
            shown.setdefault(of, []).append(message["content"]["data"]["text/html"])
    assert sorted(shown.values()) == [["0", "1", "2", "3"]] * 2  # a display for each rank
    assert len(made) == 2
