"""What IPython and Python make of a cell holds on the ranks: errors shown, flags, comments."""

from __future__ import annotations

import pytest
from harness import without_colours

# Cells that IPython shows an error for and goes on with, and the error's last line.
GOES_ON = {
    "run": ("%run fails.py", "ZeroDivisionError: division by zero"),
    "run of no Python": ("%run no_python.py", "SyntaxError: '(' was never closed"),
    "cell in a cell": ("get_ipython().run_cell('1/0')", "ZeroDivisionError: division by zero"),
    "display": (
        "class Bad:\n    def _repr_html_(self): raise ValueError('bad html')\ndisplay(Bad())",
        "ValueError: bad html",
    ),
    "event": (
        "def callback(*_): raise KeyError('event')\n"
        "get_ipython().events.register('pre_execute', callback)\n"
        "get_ipython().events.trigger('pre_execute')\n"
        "get_ipython().events.unregister('pre_execute', callback)",
        "KeyError: 'event'",
    ),
}


@pytest.fixture(scope="module")
def with_scripts(shared_notebook):
    shared_notebook.run(
        "from pathlib import Path\n"
        "Path('fails.py').write_text('bound = 1\\n1/0')\n"
        "Path('no_python.py').write_text('x = (')\n"
        "Path('uses.py').write_text('made = only_there * 2')\n"
        "Path('plain.py').write_text('bound_by_plain = 5');"
    )
    return shared_notebook


@pytest.mark.parametrize("what", GOES_ON)
def test_an_error_that_ipython_shows_and_goes_on_from_is_shown_under_its_rank(with_scripts, what):
    code, last_line = GOES_ON[what]
    output = with_scripts.run(f"%%distributed\n{code}\nprint('after')")
    shown = without_colours(output.stderr)
    assert f"[0-1] {last_line}" in shown.splitlines()
    assert output.lines[-1] == "[0-1] after"


def test_an_error_in_a_captured_cell_is_shown_as_in_the_notebook(with_scripts):
    output = with_scripts.run("%%distributed\n%%capture captured\nprint('said')\n1/0")
    shown = without_colours(output.stderr)
    assert "[0-1] ZeroDivisionError: division by zero" in shown
    assert not output.stdout
    assert with_scripts.run("%distributed captured.stdout").lines == ["[0-1] 'said\\n'"]


def test_an_error_of_a_magic_that_ends_the_cell_is_shown_once(with_scripts):
    output = with_scripts.run("%%distributed\n%time 1/0\nprint('after')", fails=True)
    assert output.error.count("ZeroDivisionError: division by zero") == 2  # traceback and summary
    assert "ZeroDivisionError" not in output.stderr
    assert "after" not in output.stdout


def test_a_script_run_in_the_cell_sees_the_notebooks_names_and_leaves_its_own(with_scripts):
    with_scripts.run("only_there = 21")
    with_scripts.run("%%distributed\n%run -i uses.py\n%run plain.py")
    assert with_scripts.run("%distributed (made, bound_by_plain)").lines == ["[0-1] (42, 5)"]


def test_future_features_of_the_notebook_hold_for_its_cells_on_ranks(notebook):
    with_annotation = (
        "%%distributed --procs 2\ndef uses(x: Undefined): ...\nprint(uses.__annotations__)"
    )
    assert "NameError" in notebook.run(with_annotation, fails=True).error
    notebook.run("from __future__ import annotations\nimport threading\nlock = threading.RLock()")
    notebook.run("def sent(x: Undefined): return sent.__annotations__")
    assert notebook.run(with_annotation).lines == ["[0-1] {'x': 'Undefined'}"]
    assert notebook.run("%distributed sent(1)").lines == ["[0-1] {'x': 'Undefined'}"]
    # A name of an annotation alone need not be sent.
    output = notebook.run("%%distributed\ndef f(x: lock, y: Net): ...\nprint('made')")
    assert output.lines == ["[0-1] made"]


def test_a_cells_own_future_import_holds_for_later_cells_on_the_ranks(notebook):
    notebook.run("%%distributed --procs 2\nfrom __future__ import annotations")
    output = notebook.run("%%distributed\ndef uses(x: Undefined): ...\nprint('made')")
    assert output.lines == ["[0-1] made"]


def test_a_comment_may_follow_the_options_of_a_magic(with_scripts):
    run = with_scripts.run
    assert run("%%distributed --ranks 0   # it's the first\nprint(rank)").stdout == "[0] 0\n"
    assert run("%distributed --ranks 1 'a # b'  # the second").lines == ["[1] 'a # b'"]
    run("%distributed globals().update(mine=rank)")
    run("%accelnb pull mine  # bring it back")
    assert run("list(mine)").value == "[0, 1]"
    assert "idle" in run("%accelnb status # how are they").stdout
    output = run("%%distributed --out a#b\n1", fails=True)
    assert "out=a#b" in output.error
    assert "there is no code to run" in run("%distributed --ranks 0  # nothing", fails=True).error
