"""`Accelerator.log` in a cell: the notebook is the tracker."""

from __future__ import annotations


def test_what_a_cell_logs_is_in_the_metrics_of_its_run(shared_notebook):
    run = shared_notebook.run
    output = run(
        "%%distributed\nimport torch\nfrom accelnb import Accelerator\n"
        "accelerator = Accelerator()\n"
        "for step in range(3):\n"
        "    accelerator.log({'loss': torch.tensor(1 / 2**step)}, step=step)\n"
        "accelerator.end_training()"
    )
    assert "loss  step 2       [0] 0.25" in output.displays[-1]["text/plain"]
    run("import accelnb\nrun = accelnb.last_run()")
    assert run("[(p.step, p.value) for p in run.metrics['loss'][0]]").value == (
        "[(0, 1.0), (1, 0.5), (2, 0.25)]"
    )
    assert run("list(run.metrics['loss'])").value == "[0]"  # the main process alone


def test_the_ranks_keep_their_group_and_their_accelerator_for_the_next_cell(shared_notebook):
    run = shared_notebook.run
    run(
        "%%distributed\nfrom accelnb import Accelerator\n"
        "kept = Accelerator()\nkept.log({'a': 1})\nkept.end_training()"
    )
    run("%%distributed\nkept.wait_for_everyone()\nkept.log({'b': 2}, step=4)")
    run("import accelnb\nrun = accelnb.last_run()")
    assert run("[p.step for p in run['b'][0]]").value == "[4]"
    assert run("list(run.metrics)").value == "['b']"
