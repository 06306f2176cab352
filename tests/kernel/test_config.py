"""Options of cells: from the line, the session and accelnb.yaml; what they do on the ranks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from harness import Notebook

IN_FORCE = "%distributed world_size, __import__('os').environ['ACCELERATE_MIXED_PRECISION']"
USE = (
    "from accelnb.options.config import LaunchConfig\n"
    "from accelnb.notebook.extension import session_of\n"
    "session_of(get_ipython()).use(LaunchConfig({}))"
)
FILE = "version: 1\nprocs: 3\nprecision: bf16\n"


def test_the_line_goes_before_the_session_and_that_before_the_file(
    notebook: Notebook, tmp_path: Path
):
    (tmp_path / "accelnb.yaml").write_text(FILE)
    assert "(3, 'bf16')" in notebook.run(IN_FORCE).stdout
    launched = notebook.run("import accelnb\nlen(accelnb.launch(lambda: 0, device='cpu'))")
    assert launched.value == "3"

    with_line = IN_FORCE.replace("world", "--procs 2 --precision no world")
    assert "(2, 'no')" in notebook.run(with_line).stdout
    assert "(2, 'bf16')" in notebook.run(IN_FORCE).stdout  # on the ranks that are there

    notebook.run(USE.format("procs=1"))
    chosen = notebook.run(IN_FORCE)
    assert "(1, 'no')" in chosen.stdout
    assert "the defaults changed: new ranks are started" in chosen.stderr
    said = notebook.run("%accelnb config").stdout
    assert "procs         1        chosen for this session" in said

    said = notebook.run("%accelnb config --reset").stdout
    assert "precision     bf16     accelnb.yaml, line 3" in said
    assert "as a line: %%distributed --procs 3 --precision bf16" in said
    (tmp_path / "accelnb.yaml").write_text(FILE.replace("3", "2"))
    assert "(2, 'bf16')" in notebook.run(IN_FORCE).stdout


def test_a_wrong_file_runs_nothing_until_the_user_mends_it_or_says_to_ignore_it(
    notebook: Notebook, tmp_path: Path
):
    file = tmp_path / "accelnb.yaml"
    notebook.run("%distributed --procs 2 kept = 5")
    file.write_text("version: 1\nprecision: fp12\n")
    error = notebook.run("%distributed kept", fails=True).error
    assert error.startswith("ConfigError: accelnb.yaml, line 2: precision=fp12: choose one of no,")
    assert "%accelnb config --ignore-file" in error
    file.write_text("version: 1\ndevice: tpu\n")  # as saved on another machine
    error = notebook.run("import accelnb\naccelnb.launch(lambda: 0)", fails=True).error
    assert error.startswith("ConfigError: accelnb.yaml, line 2: device=tpu: not found on this")
    error = notebook.run(USE.format("device='tpu'"), fails=True).error
    assert "device=tpu: not found on this machine" in error

    file.write_text("procs: [\n")
    assert "line 2: is not YAML" in notebook.run("%distributed kept", fails=True).error
    said = notebook.run("%accelnb config --ignore-file").stdout
    assert "accelnb.yaml is ignored in this session" in said
    assert notebook.run("%distributed kept").lines == ["[0-1] 5"]  # ranks and variables are there
    assert "is not YAML" in notebook.run("%accelnb config --reset", fails=True).error


def test_a_cell_has_the_mesh_that_it_asked_for_and_no_other(shared_notebook: Notebook):
    run = shared_notebook.run
    run("mesh = 'of the notebook'")
    total = (
        "import torch, torch.distributed as dist\nvalue = torch.tensor(rank + 1)\n"
        "dist.all_reduce(value, group=mesh.get_group('tp'))\n"
        "mesh.mesh_dim_names, tuple(mesh.shape), value.item()"
    )
    line = "%%distributed --mesh dp_replicate=1,tp=2\n"
    expected = ["[0-1] (('dp_replicate', 'tp'), (1, 2), 3)"]
    assert run(line + total).lines == expected
    assert run(line + "first = mesh\nfirst is mesh").lines == ["[0-1] True"]
    run("%distributed dist.destroy_process_group()")
    assert run(line + total).lines == expected  # made anew on the new group
    assert run("%distributed mesh").lines == ["[0-1] 'of the notebook'"]
    run("del mesh\n%distributed del mesh")
    assert "name 'mesh' is not defined" in run("%distributed mesh", fails=True).error
    refused = run("%distributed --mesh tp=2 --ranks 0 rank", fails=True).error
    assert "mesh: is made by all ranks together" in refused


def test_the_accelerator_of_a_cell_follows_strategy_and_accumulation(shared_notebook: Notebook):
    cell = (
        "import torch\nfrom accelnb import Accelerator\naccelerator = Accelerator()\n"
        "model, optimizer = torch.nn.Linear(1, 1, bias=False), None\n"
        "model.weight.data.fill_(rank)\nmodel = accelerator.prepare(model)\nsteps = []\n"
        "for _ in range(4):\n"
        "    with accelerator.accumulate(model):\n"
        "        steps.append(accelerator.sync_gradients)\n"
        "weight = next(model.parameters()).item()\n"
        "type(model).__name__, sum(steps), weight"
    )
    run = shared_notebook.run
    given = "%%distributed --strategy none --accumulation 2\n"
    assert sorted(run(given + cell).lines) == ["[0] ('Linear', 2, 0.0)", "[1] ('Linear', 2, 1.0)"]
    # By default models start equal, and each batch is a step.
    assert run("%%distributed\n" + cell).lines == ["[0-1] ('DistributedDataParallel', 4, 0.0)"]
    sharded = (
        "from torch.distributed.tensor import distribute_module\n"
        "model = distribute_module(torch.nn.Linear(2, 2), mesh)\n"
        "Accelerator().prepare(model) is model"
    )
    for strategy in ("--strategy none", ""):  # a model that comes sharded is left as it is
        assert run(f"%%distributed --mesh tp=2 {strategy}\n{sharded}").lines == ["[0-1] True"]


def test_a_cells_models_return_what_they_computed_if_it_says_so(shared_notebook: Notebook):
    run = shared_notebook.run
    cell = (
        "import torch\nfrom accelnb import Accelerator\n"
        "model = Accelerator().prepare(torch.nn.Linear(2, 2))\nmodel(torch.ones(1, 2)).dtype"
    )
    compute = "%%distributed --precision bf16 --outputs compute\n"
    assert run(compute + cell).lines == ["[0-1] torch.bfloat16"]
    assert run("%%distributed --precision bf16\n" + cell).lines == ["[0-1] torch.float32"]


def test_the_sub_commands_print_where_there_are_no_widgets(shared_notebook: Notebook):
    run = shared_notebook.run
    assert run("%accelnb").stdout.startswith("2 ranks on cpu")
    assert "torch" in run("%accelnb env --plain").stdout
    table = run("%accelnb env").displays[0]
    assert all("processors" in table[kind] for kind in ("text/html", "text/plain"))
    tested = run("%accelnb test --procs 1 --precision bf16").stdout
    assert "8 steps in bf16" in tested
    *steps, verdict = tested.splitlines()
    assert [step[0] for step in steps] == ["✓"] * 8
    assert verdict == "This configuration works."
    assert "\x1b" not in tested
    assert "the test failed at start: " in run("%accelnb test --device tpu", fails=True).error
    assert "takes no --out" in run("%accelnb test --out x", fails=True).error
    assert "choose one of --ignore-file" in run("%accelnb config --no", fails=True).error
    for line, expected in (("%accelnb co", "config"), ("%accelnb config --", "--ignore-file")):
        complete: Any = shared_notebook.client.complete  # its type lacks what it adds to replies
        reply = complete(line, len(line), reply=True, timeout=30)
        assert expected in reply["content"]["matches"]
