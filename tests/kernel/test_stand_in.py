"""A notebook that has accelnb in the place of accelerate has ranks that have it too."""

from __future__ import annotations

import pytest


def test_ranks_and_what_they_spawn_follow_the_notebook(notebook):
    notebook.run("%%distributed -n 2\nkept = 1")  # they run already
    notebook.run(
        "import accelnb.compat.accelerate\n"
        "import accelerate\n"
        "from accelerate import Accelerator\n"
        "def inner():\n"
        "    from accelerate.utils import set_seed\n"
        "    return set_seed.__module__"
    )
    output = notebook.run(
        "%%distributed\n"
        "import accelerate.state\n"
        "from importlib.metadata import version\n"
        "print(kept, inner(), accelerate.state.PartialState.__module__, Accelerator.__module__,\n"
        "      version('accelerate'))"
    )
    assert output.said == {
        "1 accelnb.training.rng accelnb.training.state accelnb.training.accelerator 1.15.0"
    }
    called = notebook.run("accelnb.launch(inner, procs=2)")
    assert called.value == "[0: 'accelnb.training.rng', 1: 'accelnb.training.rng']"


def test_ranks_that_had_imported_accelerate_itself_say_so_and_are_started_anew(notebook):
    pytest.importorskip("accelerate")
    notebook.run("%%distributed -n 2\nimport accelerate", timeout=120)
    notebook.run("import accelnb.compat.accelerate")
    said = notebook.run("%%distributed\npass").stderr
    assert "in the place of accelerate cannot be set here as in the notebook" in said
    assert "(for ranks, %accelnb restart)" in said
    notebook.run("%accelnb restart")
    output = notebook.run(
        "%%distributed -n 2\nimport accelerate\naccelerate.Accelerator.__module__"
    )
    assert output.said == {"'accelnb.training.accelerator'"}
