"""Kinds of objects on real ranks: there, and back in the notebook."""

from __future__ import annotations

import pytest
from kinds import KINDS


@pytest.mark.parametrize(
    "kind",
    ["cached_property", "nested class", "enum", "singledispatch", "exceptions", "locks",
     "attributes from __getattr__", "torchscript", "context variables", "streams", "rich console"],
)  # fmt: skip
def test_a_kind_is_on_the_ranks_what_it_is_in_the_notebook(shared_notebook, kind):
    made, asked = KINDS[kind]
    asked = " ".join(asked.split())
    shared_notebook.run(made)
    there = shared_notebook.run(f"%%distributed\nprint(repr(({asked})))").stdout
    here = shared_notebook.run(f"print(repr(({asked})))").stdout
    assert there == f"[0-1] {here}"


def test_the_shell_and_streams_are_each_process_s_own(shared_notebook):
    run = shared_notebook.run
    run(
        "import functools, logging, sys\nfrom rich.console import Console\n"
        "class Holder: pass\nholder = Holder()\nholder.shell = ip = get_ipython()\n"
        "holder.out, err, console, names = sys.stdout, sys.stderr, Console(width=60), globals()\n"
        "line, handler = ip.run_line_magic, logging.StreamHandler(sys.stdout)"
    )
    there = run(
        "%%distributed\nprint('kept', file=holder.out)\nconsole.print('rich')\n"
        "handler.emit(logging.makeLogRecord({'msg': 'logged'}))\n"
        "holder.shell is ip is get_ipython(), err is sys.stderr, line.__self__ is ip, "
        " names is globals(), console.width"
    )
    assert there.lines == [
        "[0-1] kept", "[0-1] rich", "[0-1] logged", "[0-1] (True, True, True, True, 60)"
    ]  # fmt: skip
    run("%%distributed --out back\nholder, sys.stderr, console")
    same = "mine.shell is ip, mine.out is sys.stdout, err is sys.stderr, console.file is sys.stdout"
    assert run(f"mine, err, console = back[1]\n{same}").value == "(True, True, True, True)"


def test_a_class_is_changed_by_the_process_that_defined_it(shared_notebook):
    run = shared_notebook.run
    run(
        "import enum\nclass Learner:\n    steps = 1\n    def fit(self): return 'first'\n"
        "    def old(self): pass\nclass Mode(enum.Enum):\n    FAST = 1\n"
        "    def text(self): return 1\n"
    )
    run("%%distributed --out got\nLearner.seen = rank\nLearner(), Mode.FAST")
    run("Learner.fit, Mode.text = lambda self: 'patched', lambda self: 2\ndel Learner.old")
    run("%%distributed --out got\nLearner(), Mode.FAST")
    run("one, mode = got[1]")
    said = "Learner().fit(), Mode.FAST.text(), isinstance(one, Learner), mode is Mode.FAST"
    assert run(said).value == "('patched', 2, True, True)"
    assert run("hasattr(Learner, 'seen'), hasattr(Learner, 'old')").value == "(False, False)"

    run("one = Learner()")  # it brings its class along
    there = run(
        "%distributed one.fit(), type(one) is Learner, hasattr(one, 'old'), Learner.seen == rank"
    )
    assert there.lines == ["[0-1] ('patched', True, False, True)"]
    run("Learner.fit = lambda self: 'newest'\none = Learner()")
    run("%%distributed --out got\none")
    assert run("%distributed one.fit()").lines == ["[0-1] 'newest'"]
    assert run("got[0].fit(), type(got[1]) is Learner").value == "('newest', True)"


def test_a_class_of_a_rank_stays_the_rank_s(shared_notebook):
    run = shared_notebook.run
    run("%%distributed --pull made\nclass OnRank:\n    def f(self): return 'rank'\nmade = OnRank()")
    run("type(made[0]).f = lambda self: 'notebook'\nback = made[0]")
    shown = run("%distributed --ranks 0 back.f(), type(back) is OnRank")
    assert shown.lines == ["[0] ('rank', True)"]
    assert run("made[0].f(), made[1].f()").value == "('notebook', 'rank')"


@pytest.mark.parametrize(
    ("made", "said"),
    [
        ("thing = (i for i in range(3))", "a generator, which cannot be sent to the ranks"),
        ("import threading\nthing = threading.Thread()", "a thread belongs to the process that"),
        ("import queue\nthing = queue.SimpleQueue()\nthing.put(1)", "use queue.Queue"),
        (
            "from concurrent.futures import ThreadPoolExecutor\nthing = ThreadPoolExecutor()",
            "a pool of workers belongs to the process that made it",
        ),
    ],
)
def test_what_cannot_be_sent_says_why(shared_notebook, made, said):
    shared_notebook.run(made)
    error = shared_notebook.run("%distributed thing", fails=True).error
    assert "the cell uses thing, a " in error
    assert said in error
