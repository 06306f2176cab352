"""`accelnb.stream`: values that reach the notebook while the cell runs."""

from __future__ import annotations

import pytest

pytestmark = pytest.mark.alone  # it measures time


def test_scalars_are_a_table_by_step_and_rank(shared_notebook):
    run = shared_notebook.run
    output = run(
        "%%distributed\nimport accelnb\nfor step in range(5):\n"
        "    accelnb.stream('loss', 1 / (step + 1) + rank, step)\n    accelnb.stream('acc', step)"
    )
    drawn = output.displays[-1]["text/plain"]
    assert "loss  step 4       [0] 0.2  [1] 1.2" in drawn
    run("import accelnb\nrun = accelnb.last_run()")
    assert run("[p.value for p in run.metrics['loss'][1]][:2]").value == "[2.0, 1.5]"
    assert run("[p.step for p in run['acc'][0]]").value == "[0, 1, 2, 3, 4]"
    assert run("list(run.metrics), run.metrics['loss'].frame().shape").value == (
        "(['loss', 'acc'], (5, 2))"
    )
    assert "step       [0]      [1]" in run("print(run.metrics['loss'])").stdout
    assert "there is loss, acc" in run("run['nope']", fails=True).error


def test_tensors_images_histograms_and_odd_numbers(shared_notebook):
    run = shared_notebook.run
    output = run(
        """%%distributed
import accelnb, numpy, torch
weights = torch.arange(6.).reshape(2, 3)
accelnb.stream("w", weights); weights.zero_()
accelnb.stream("picture", torch.rand(3, 8, 8), kind="image")
accelnb.stream("spread", torch.arange(64.), kind="histogram")
for value in (float("nan"), float("inf"), torch.tensor(2.5), numpy.float32(3), True):
    accelnb.stream("odd", value)"""
    )
    assert any("<img src=" in display.get("text/html", "") for display in output.displays)
    run("import accelnb\nrun = accelnb.last_run()")
    assert run("run['w'][1][-1].value.tolist()").value == "[[0.0, 1.0, 2.0], [3.0, 4.0, 5.0]]"
    assert run("sum(run['spread'][0][-1].value[0])").value == "64"
    assert run("[str(p.value) for p in run['odd'][0]]").value == (
        "['nan', 'inf', '2.5', '3.0', '1.0']"
    )
    assert run("list(run.metrics)").value == "['odd']"


def test_what_cannot_be_streamed_is_said_on_its_line(shared_notebook):
    for value, said in [
        ("torch.zeros(5 << 20)", "x: 20,971,520 bytes are too many to stream"),
        ("'text', kind='scalar'", "x: a str is not one number"),
        ("object()", "x: only numbers, tensors and arrays can be streamed"),
        ("torch.ones(2), kind='sound'", "kind=sound: choose one of scalar, tensor"),
        ("'text'", "x: only numbers, tensors and arrays can be streamed"),
        ("torch.eye(2).to_sparse()", "x: a sparse tensor cannot be streamed; use to_dense()"),
        ("torch.tensor([1j, 2]), kind='histogram'", "x: complex numbers have no histogram"),
        ("10**400", "x: the number is too large for a float"),
        ("1.0, step=2**70", "step=1180591620717411303424: must fit into 64 bits"),
        ("1.0, step='one'", "step=one: must be a whole number"),
        ("1.0), accelnb.stream('x', torch.ones(2)", "x: a scalar before and a tensor now"),
        ("1.0), accelnb.stream(3, 1.0", "name=3: must be text"),
    ]:
        cell = f"%%distributed\nimport accelnb, torch\naccelnb.stream('x', {value})"
        error = shared_notebook.run(cell, fails=True).error
        assert f"ValueError: {said}" in error
        assert "line 3)" in error
        assert "accelnb/" not in error  # no frame of ours


def test_only_scalars_make_a_table(shared_notebook):
    run = shared_notebook.run
    run("%%distributed\nimport accelnb, torch\naccelnb.stream('w', torch.ones(3))")
    error = run("import accelnb\naccelnb.last_run()['w'].frame()", fails=True).error
    assert "AccelnbError: w: tensors make no table; read them as series[rank][-1].value" in error


def test_a_rank_never_waits_for_the_notebook_and_counts_what_it_drops(shared_notebook):
    cell = """%%distributed --ranks 0 --out seconds
import accelnb, time
start = time.perf_counter()
for step in range(200_000):
    accelnb.stream("x", step)
time.perf_counter() - start"""
    shared_notebook.run(cell)
    # Promised are 50 µs each; a rank that waited for the notebook would take far longer.
    assert float(shared_notebook.run("seconds[0]").value) / 200_000 < 200e-6
    shared_notebook.run("run = accelnb.last_run()")
    count, dropped, last = eval(
        shared_notebook.run(
            "len(run['x'][0]), run.streamed.dropped.get(0, 0), run['x'][0][-1].step"
        ).value
    )
    assert count + dropped == 200_000
    assert last == 199_999


def test_outside_a_rank_it_does_nothing(run_script):
    script = run_script("import accelnb\naccelnb.stream('loss', 1.0)\nprint('went on')")
    assert (script.stdout, script.returncode) == ("went on\n", 0)
