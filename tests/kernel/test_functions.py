"""`launch`, `distributed` and `notebook_launcher`, in notebooks and in plain scripts."""

from __future__ import annotations

import inspect

import accelerate

import accelnb

TOTAL = """
import accelnb
def total(start, scale=1):
    import torch, torch.distributed as dist
    value = torch.tensor(start + dist.get_rank())
    dist.all_reduce(value)
    print("total is", value.item())
    return value.item() * scale
"""


def test_functions_of_a_notebook_run_on_ranks_of_their_own(shared_notebook):
    run = shared_notebook.run
    run(TOTAL)
    output = run("list(accelnb.launch(total, 10, procs=2, scale=2))")
    assert output.value == "[42, 42]"
    assert output.lines == ["[0-1] total is 21"]
    run(
        "@accelnb.distributed(procs=3, logs='rank0')\ndef ranks():\n    import os\n"
        "    return int(os.environ['RANK'])"
    )
    assert run("ranks(), ranks()[2]").value == "([0: 0, 1: 1, 2: 2], 2)"
    run("%distributed globals().update(kept=1)")
    run("accelnb.notebook_launcher(total, (1,), num_processes=2)")
    assert run("%distributed kept").lines == ["[0-1] 1"]


def test_an_error_in_a_function_names_its_line(shared_notebook):
    shared_notebook.run("def broken(x):\n    return 1 / x")
    error = shared_notebook.run("accelnb.launch(broken, 0, procs=2)", fails=True).error
    assert "RankError: ranks 0-1: ZeroDivisionError: division by zero (Cell In[" in error
    assert "----> 2     return 1 / x" in error
    assert "worker/" not in error


def test_wrong_calls_are_refused_before_anything_starts(shared_notebook):
    run = shared_notebook.run
    run(TOTAL)
    assert "procs=0: must be" in run("accelnb.launch(total, 1, procs=0)", fails=True).error
    assert "no such option" in run("accelnb.distributed(proc=1)(total)", fails=True).error
    said = run("accelnb.launch(total, nope=1, procs=2)", fails=True).error
    assert "total() cannot be called so" in said
    said = run("accelnb.launch(total, open('/dev/null'), procs=2)", fails=True).error
    assert "total or its arguments cannot be sent" in said
    said = run("accelnb.launch('total', procs=2)", fails=True).error
    assert said == "AccelnbError: 'total' is not a function, so ranks cannot call it"
    said = run("accelnb.notebook_launcher(total, args=3)", fails=True).error
    assert said == "AccelnbError: args=3: must be a tuple, such as (3,)"


def test_a_script_needs_no_main_guard(run_script):
    script = run_script(
        TOTAL + "print(list(accelnb.launch(total, 10, procs=2)))\n"
        "@accelnb.distributed(procs=2)\ndef double(x): return 2 * x\nprint(list(double(4)))\n"
        "print(list(accelnb.notebook_launcher(total, (0,), num_processes=2)))\n"
    )
    assert script.returncode == 0, script.stderr
    assert script.stdout.splitlines() == [
        "[0-1] total is 21", "[21, 21]", "[8, 8]", "[0-1] total is 1", "[1, 1]",
    ]  # fmt: skip


def test_spawned_ranks_run_a_scripts_functions_too_and_leave_no_files(run_script, tmp_path):
    script = run_script(TOTAL + "print(list(accelnb.launch(total, 10, procs=2, start='spawn')))\n")
    assert [path.name for path in tmp_path.iterdir()] == ["script.py"]
    assert script.returncode == 0, script.stderr
    assert script.stdout.splitlines() == ["[0-1] total is 21", "[21, 21]"]


def test_an_uncaught_error_of_a_script_is_readable_and_its_exit_code_1(run_script):
    script = run_script(
        "import accelnb\ndef broken():\n    raise ValueError('bad')\n"
        "accelnb.launch(broken, procs=2)\n"
    )
    assert script.returncode == 1
    assert "RankError: ranks 0-1: ValueError: bad" in script.stderr


def test_notebook_launcher_has_accelerates_signature():
    ours = inspect.signature(accelnb.notebook_launcher).parameters
    theirs = inspect.signature(accelerate.notebook_launcher).parameters
    assert list(ours) == list(theirs)


def test_a_launched_function_has_the_modules_own_objects(notebook, run_script):
    module = "settings = {'lr': 0.1}\ndef look(): return settings"
    function = (
        "def seen():\n    settings['rank'] = 1\n"
        "    return look(), stdout is __import__('sys').stdout, type('') is str\n"
    )
    imports = "from own_settings import settings, look\nfrom sys import stdout\nimport accelnb\n"
    notebook.run(f"%%writefile own_settings.py\n{module}")
    notebook.run(imports)
    notebook.run(function)
    notebook.run("settings['lr'] = 0.5")
    shown = notebook.run("list(accelnb.launch(seen, procs=1))").value
    assert shown == "[({'lr': 0.5, 'rank': 1}, True, True)]"
    ran = run_script(
        f"{imports}{function}settings['lr'] = 0.5\nprint(*accelnb.launch(seen, procs=1))"
    )
    assert ran.stdout.splitlines()[-1] == "({'lr': 0.5, 'rank': 1}, True, True)", ran.stderr
