"""What a `%%distributed` cell does, as its user sees it."""

from __future__ import annotations

import psutil
import pytest
from harness import wait_until, without_colours

from accelnb.options.config import CellOptions, LaunchConfig, options


@pytest.mark.parametrize(
    ("cell", "lines"),
    [
        ("print('hello')\nrank * 10", ["[0-1] hello", "[0] 0", "[1] 10"]),
        ("rank * 10;", []),
        (
            "rank, local_rank, world_size, str(device)",
            ["[0] (0, 0, 2, 'cpu')", "[1] (1, 1, 2, 'cpu')"],
        ),
        ("!echo from a shell $HOME", ["[0-1] from a shell /"]),
        ("import asyncio\nawait asyncio.sleep(0, 'awaited')", ["[0-1] 'awaited'"]),
        ("%cd -q /\n%pwd", ["[0-1] '/'"]),
        ("%env THEIRS=3\n!echo $THEIRS", ["[0-1] env: THEIRS=3", "[0-1] 3"]),
        ("names = !echo a; echo b\nnames", ["[0-1] ['a', 'b']"]),
        ("took = %timeit -o -q -n 2 -r 1 rank + 1\ntook.loops", ["[0-1] 2"]),
        (
            "import torch, torch.distributed as dist\nt = torch.ones(2) * rank\n"
            "dist.all_reduce(t)\nt.tolist()",
            ["[0-1] [1.0, 1.0]"],
        ),
    ],
)
def test_a_cell_is_an_ipython_cell_on_every_rank(shared_notebook, cell, lines):
    output = shared_notebook.run(f"%%distributed\n{cell}")
    assert len(output.lines) == len(lines)
    for line, expected in zip(output.lines, lines, strict=True):
        assert line.startswith(expected), output.stdout


def test_the_environment_is_that_of_torchrun(shared_notebook):
    output = shared_notebook.run(
        "%%distributed --out seen\nimport os\n"
        "{n: os.environ[n] for n in ('RANK', 'LOCAL_RANK', 'WORLD_SIZE', 'LOCAL_WORLD_SIZE',"
        " 'MASTER_ADDR', 'MASTER_PORT')}"
    )
    assert output.stdout == ""  # --out takes the value, so it is not shown
    seen = shared_notebook.run(
        "a, b = seen\nport = int(a.pop('MASTER_PORT')) == int(b.pop('MASTER_PORT'))\na, b, port"
    )
    assert eval(seen.value) == (
        {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
        | {"MASTER_ADDR": "127.0.0.1"},
        {"RANK": "1", "LOCAL_RANK": "1", "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
        | {"MASTER_ADDR": "127.0.0.1"},
        True,
    )


def test_the_precision_of_fp32_products_is_the_notebooks_until_a_cell_sets_it(shared_notebook):
    get = "%distributed __import__('torch').get_float32_matmul_precision()"
    shared_notebook.run("import torch; torch.set_float32_matmul_precision('high')")
    assert shared_notebook.run(get).lines == ["[0-1] 'high'"]
    shared_notebook.run("%distributed __import__('torch').set_float32_matmul_precision('medium')")
    assert shared_notebook.run(get).lines == ["[0-1] 'medium'"]
    shared_notebook.run("torch.set_float32_matmul_precision('highest')")
    assert shared_notebook.run(get).lines == ["[0-1] 'highest'"]


def test_rich_displays_and_figures_appear_under_their_rank(shared_notebook):
    output = shared_notebook.run(
        "%%distributed\nfrom IPython.display import HTML, display\ndisplay(HTML(f'<b>{rank}</b>'))"
    )
    assert [display["text/html"] for display in output.displays] == ["<b>0</b>", "<b>1</b>"]
    assert output.lines == ["[0]", "[1]"]
    output = shared_notebook.run(
        "%%distributed\nimport matplotlib.pyplot as plt\nplt.plot([rank, 1]);"
    )
    assert ["image/png" in display for display in output.displays] == [True, True]


def test_a_widget_which_lives_on_a_rank_is_shown_as_text(shared_notebook):
    output = shared_notebook.run(
        "%%distributed\nfrom IPython.display import display\n"
        "view = 'application/vnd.jupyter.widget-view+json'\n"
        "display({'text/plain': 'a slider', view: {'model_id': '1'}}, raw=True)"
    )
    assert (output.lines, output.displays) == (["[0-1] a slider"], [])


def test_ranks_keep_variables_and_their_names_are_not_overwritten(shared_notebook):
    shared_notebook.run("rank = local_rank = world_size = device = 'mine'\ncount = 5")
    shared_notebook.run("%%distributed\ncount += rank")
    shared_notebook.run("def seen(): return count, rank, local_rank, world_size, str(device)")
    assert shared_notebook.run("%distributed seen()").lines == [
        "[0] (5, 0, 0, 2, 'cpu')",
        "[1] (6, 1, 1, 2, 'cpu')",
    ]
    assert shared_notebook.run("seen()").value == "(5, 'mine', 'mine', 'mine', 'mine')"
    shared_notebook.run("del rank, local_rank, world_size, device")


def test_out_and_pull_bind_sequences_over_ranks(shared_notebook):
    shared_notebook.run("%%distributed --out last --pull a,b\na, b = rank + 1, 'x' * rank\na * 2")
    assert shared_notebook.run("list(last), a[1], b[-1], len(a)").value == "([2, 4], 2, 'x', 2)"
    shared_notebook.run("%%distributed --ranks 1 --out only\nrank")
    assert shared_notebook.run("len(only), only[1], only.ranks").value == "(1, 1, (1,))"


def test_a_rank_says_that_it_has_no_keyboard(shared_notebook):
    error = shared_notebook.run("%%distributed\nname = input('Name? ')", fails=True).error
    assert "----> 2 name = input('Name? ')" in error
    assert "a rank has no keyboard: ask with input() in an ordinary cell" in error
    assert "accelnb/" not in error


def test_variables_and_expressions_expand_in_the_line(shared_notebook):
    shared_notebook.run("which, name = 1, 'expanded'")
    shared_notebook.run("%%distributed --ranks $which --out {name}_value\nrank")
    assert shared_notebook.run("list(expanded_value)").value == "[1]"


def test_logs_chooses_what_is_shown(shared_notebook):
    cell = "print('same'); print('mine', rank)"
    run = shared_notebook.run
    assert run(f"%%distributed --logs rank0\n{cell}").lines == ["same", "mine 0"]
    every = run(f"%%distributed --logs all\n{cell}").lines
    assert sorted(every) == ["[0] mine 0", "[0] same", "[1] mine 1", "[1] same"]


def test_a_timeout_stops_the_cell_and_keeps_the_ranks(shared_notebook):
    shared_notebook.run("%distributed globals().update(kept=rank)")
    output = shared_notebook.run(
        "%%distributed --timeout 0.3\nwhile True:\n    pass", fails=True, timeout=20
    )
    assert "not done after 0.3 s (Cell In[" in output.error
    assert shared_notebook.run("%distributed kept").lines == ["[0] 0", "[1] 1"]


def test_help_and_tab_completion_know_the_options(shared_notebook):
    reply = shared_notebook.client.execute_interactive(
        "%%distributed?", timeout=30, output_hook=lambda _: None
    )
    (page,) = reply["content"]["payload"]
    shown = without_colours(page["data"]["text/plain"])
    assert "The last expression is each rank's value." in shown
    for option in options(LaunchConfig, CellOptions):
        assert all(flag in shown for flag in option.flags)
        assert " ".join(option.help.split()) in " ".join(shown.split())
    reply = shared_notebook.client.complete(
        "%%distributed --pre", len("%%distributed --pre"), reply=True, timeout=30
    )
    assert "--precision" in reply["content"]["matches"]
    line = "%%distributed --precision b"
    reply = shared_notebook.client.complete(line, len(line), reply=True, timeout=30)
    assert "bf16" in reply["content"]["matches"]


def test_another_number_of_procs_makes_a_new_group_and_ends_the_old(notebook):
    notebook.run("%%distributed --procs 2 --out pids\nkept = 1\nimport os; os.getpid()")
    old = eval(notebook.run("list(pids)").value)
    assert notebook.run("%distributed --procs 3 world_size, 'kept' in globals()").lines == [
        "[0-2] (3, False)"
    ]
    assert not any(psutil.pid_exists(pid) for pid in old)
    notebook.run("%distributed globals().update(kept=1)")
    fresh = notebook.run("%%distributed --fresh\n'kept' in globals(), world_size")
    assert fresh.lines == ["[0-2] (False, 3)"]


def test_loading_is_light_and_unloading_ends_everything(notebook):
    assert notebook.run("import sys; 'torch' in sys.modules").value == "False"
    notebook.run("%distributed --procs 2 rank")
    assert len(notebook.processes()) == 3  # the fork server and two ranks
    notebook.run("%unload_ext accelnb")
    assert wait_until(lambda: not notebook.processes(), 5)
    assert "`%distributed` not found" in notebook.run("%distributed rank", fails=True).stderr
