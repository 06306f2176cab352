"""Bad input gets one clear line, and changes nothing."""

from __future__ import annotations

import pytest


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("--nope 1", "unrecognized arguments: --nope 1; see %%distributed? for its options"),
        ("--procs 0", "ConfigError: procs=0: must be a whole number of at least 1"),
        ("--procs two", "ConfigError: procs=two: must be a whole number of at least 1"),
        ("--device gpu", "device=gpu: did you mean cuda? choose one of auto, cuda, rocm, tpu"),
        ("--device cuda", "ConfigError: device=cuda: not found on this machine; found "),
        ("--device cuda --procs 8", "ConfigError: device=cuda: not found on this machine; found "),
        ("--precision fp8", "precision=fp8: cpu cannot; choose one of no, bf16, fp16"),
        ("--precision half", "precision=half: choose one of no, fp16, bf16, fp8"),
        ("--ranks 5", "ConfigError: ranks=5: there is no such rank; there are ranks 0-1"),
        ("--ranks x", "ConfigError: ranks=x: must be ranks such as 0,2-3"),
        ("--out 1x", "ConfigError: out=1x: must be a Python variable name"),
        ("--out class", "ConfigError: out=class: must be a Python variable name"),
        ("--pull a,b.c", "ConfigError: pull=a,b.c: must be variable names such as a,b"),
        ("--procs", "argument -n/--procs: expected one argument; see %%distributed? for its"),
        ("--out 'x", "No closing quotation; see %%distributed? for its options"),
        ("--timeout -1", "timeout=-1: must be a number of seconds above 0"),
        ("--detach --pull a", "pull: a detached cell has nothing to bring back yet"),
    ],
)
def test_a_wrong_option_is_named_with_what_is_possible(shared_notebook, line, said):
    pids = "%%distributed --out pids\nimport os; os.getpid()"
    shared_notebook.run(pids)
    before = shared_notebook.run("list(pids)").value
    output = shared_notebook.run(f"%%distributed {line}\nprint('ran')", fails=True)
    assert said in output.error
    assert "Traceback" not in output.error
    assert len(output.error.splitlines()) == 1
    assert output.stdout == ""
    shared_notebook.run(pids)
    assert shared_notebook.run("list(pids)").value == before


def test_wrong_options_start_no_ranks(notebook):
    notebook.run("%%distributed --procs 0\n1", fails=True)
    assert len(notebook.processes()) == 1  # the fork server


@pytest.mark.parametrize(
    ("bad", "said"),
    [
        ("x = = 1", "invalid syntax"),
        ("return 1", "'return' outside function"),  # what only the compiler finds
        ("def f(): nonlocal x", "no binding for nonlocal 'x' found"),
        ("x = 'unfinished", "unterminated string literal"),
        ("  x = 1", "unexpected indent"),
    ],
)
def test_a_syntax_error_is_the_notebooks_own_and_nothing_is_sent(shared_notebook, bad, said):
    output = shared_notebook.run(f"%%distributed\nprint('ran')\n{bad}", fails=True)
    assert "Cell In[" in output.error
    assert ", line 3\n" in output.error
    assert f"{bad.strip()}\n" in output.error
    last = output.error.strip().splitlines()[-1]
    assert last.startswith(("SyntaxError: ", "IndentationError: "))
    assert said in last
    assert "rank" not in output.error
    assert output.stdout == ""


def test_errors_name_the_line_and_text_that_the_user_wrote(shared_notebook):
    run = shared_notebook.run
    assert "----> 5 1/0" in run("%%distributed\n\n  \nx = 1\n1/0", fails=True).error
    assert ", line 3\n    x = = 1" in run("%%distributed\n\nx = = 1", fails=True).error
    run("%accelnb auto on")
    assert ", line 1\n    x = = 1" in run("x = = 1", fails=True).error
    run("%accelnb auto off")


@pytest.mark.parametrize(
    ("make", "kind"),
    [
        ("open('/dev/null')", "TextIOWrapper"),
        ("__import__('threading').Thread()", "Thread"),
        ("(i for i in range(3))", "generator"),
        ("__import__('socket').socket()", "socket"),
    ],
)
def test_what_cannot_be_sent_is_named_with_the_way_out(shared_notebook, make, kind):
    shared_notebook.run(f"thing = {make}\nfine = 1")
    output = shared_notebook.run("%%distributed\nprint('ran')\nfine, thing", fails=True)
    assert f"CannotSend: the cell uses thing, a {kind}, which cannot be sent" in output.error
    assert "create it inside the cell instead" in output.error
    assert output.stdout == ""
    shared_notebook.run("del thing")


def test_a_cell_on_a_rank_cannot_start_ranks(shared_notebook):
    nested = "%%distributed\nget_ipython().run_cell_magic('distributed', '', '1')"
    assert "this code already runs on a rank" in shared_notebook.run(nested, fails=True).error
    launch = "%%distributed\nimport accelnb\naccelnb.launch(print, procs=2)"
    assert "this code already runs on a rank" in shared_notebook.run(launch, fails=True).error


def test_pulling_and_pushing_what_is_not_there(shared_notebook):
    run = shared_notebook.run
    run("%%distributed\nmine = 1\nif rank == 1: del mine")
    assert (
        "no variable mine on rank 1; rank 0 has it" in run("%accelnb pull mine", fails=True).error
    )
    assert (
        "no variable nope on ranks 0-1; no rank has it"
        in run("%accelnb pull nope", fails=True).error
    )
    assert "no variable nope in the notebook" in run("%accelnb push nope", fails=True).error
    assert run("%accelnb pull mine --ranks 0\nmine[0]").value == "1"
    assert "choose one of status" in run("%accelnb wrong", fails=True).error
    assert "ranks=: must be ranks such as 0,2-3" in run("%accelnb pull a --ranks", fails=True).error
    assert run("%accelnb pull --ranks 0 mine\nlist(mine)").value == "[1]"
    run("import accelnb")
    for call in ("push()", "push(3)", "pull(3)"):
        said = f"AccelnbError: {call[:4]}: name the variables, as in accelnb.{call[:4]}('a')"
        assert said in run(f"accelnb.{call}", fails=True).error


def test_a_wrong_option_before_an_expression_is_not_taken_for_it(shared_notebook):
    error = shared_notebook.run("%distributed --outt x 1", fails=True).error
    assert "unrecognized arguments: --outt; see %%distributed? for its options" in error


def test_unusual_source_works(shared_notebook):
    assert shared_notebook.run("%%distributed\nnaïve = 'größer ✓'\nnaïve").lines == [
        "[0-1] 'größer ✓'"
    ]
    assert shared_notebook.run("%%distributed\nif True:\n\tx = 'tab\t'\nx").lines == [
        r"[0-1] 'tab\t'"
    ]
    large = "\n".join(f"x{i} = {i}  # {'.' * 80}" for i in range(10_000))
    assert len(large) > 900_000
    shared_notebook.run(f"%%distributed --out last\n{large}\nx9999")
    assert shared_notebook.run("list(last)").value == "[9999, 9999]"
