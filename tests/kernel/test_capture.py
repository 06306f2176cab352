"""What the notebook's names are on the ranks, and when they are sent."""

from __future__ import annotations

import pytest


@pytest.mark.parametrize(
    ("notebook_cell", "expression", "shown"),
    [
        ("def twice(x): return 2 * x", "twice(rank)", ["[0] 0", "[1] 2"]),
        ("factor = 3\ndef scaled(x): return factor * x", "scaled(2)", ["[0-1] 6"]),
        ("def adder(n): return lambda x: x + n\nadd2 = adder(2)", "add2(1)", ["[0-1] 3"]),
        (
            "def fact(n): return 1 if n == 0 else n * fact(n - 1)",
            "fact(5)",
            ["[0-1] 120"],
        ),
        (
            "def even(n): return n == 0 or odd(n - 1)\ndef odd(n): return n != 0 and even(n - 1)",
            "even(10)",
            ["[0-1] True"],
        ),
        (
            "import functools\n@functools.cache\n"
            "def fib(n): return n if n < 2 else fib(n - 1) + fib(n - 2)",
            "fib(50), fib.cache_info().maxsize",
            ["[0-1] (12586269025, None)"],
        ),
        (
            "class Base:\n    def hi(self): return 'hi'\n"
            "class Child(Base):\n    def hi(self): return super().hi() + '!'",
            "Child().hi()",
            ["[0-1] 'hi!'"],
        ),
        (
            "from dataclasses import dataclass\n@dataclass\nclass Point:\n    x: int = 4",
            "Point(), Point() == Point(4)",
            ["[0-1] (Point(x=4), True)"],
        ),
        (
            "import enum\nclass Colour(enum.Enum):\n    RED = 1\nred = Colour.RED",
            "red is Colour.RED",
            ["[0-1] True"],
        ),
        ("import collections as c, os.path", "c.Counter, os.path.sep", ["Counter"]),
        ("from math import pi as half_turn", "round(half_turn, 2)", ["[0-1] 3.14"]),
        ("def typed(x: int | None = None) -> list[int]: return [x or 1]", "typed()", ["[0-1] [1]"]),
        (
            "import numpy as np\nnumbers = np.arange(6).reshape(2, 3)[:, ::2]",
            "numbers.sum()",
            ["10"],
        ),
    ],
)
def test_a_cell_uses_what_the_notebook_defined(shared_notebook, notebook_cell, expression, shown):
    shared_notebook.run(notebook_cell)
    output = shared_notebook.run(f"%%distributed\n{expression}")
    assert len(output.lines) == len(shown)
    assert all(text in line for text, line in zip(shown, output.lines, strict=True))


def test_a_name_is_sent_again_when_the_notebook_binds_it_anew(shared_notebook):
    run = shared_notebook.run
    run("lr, config = 0.1, {'depth': 2, 'more': [1]}\ndef show(): return lr, config")
    assert run("%distributed show()").lines == ["[0-1] (0.1, {'depth': 2, 'more': [1]})"]
    run("lr = 0.2\nconfig['more'].append(2)")
    assert run("%distributed show()").lines == ["[0-1] (0.2, {'depth': 2, 'more': [1, 2]})"]


def test_what_a_rank_assigns_stays_until_the_notebook_binds_it_anew(shared_notebook):
    run = shared_notebook.run
    run("total = 10\nother = 0")
    run("%%distributed\ntotal += rank + 1")
    run("other = 1")  # not total
    assert run("%distributed total, other").lines == ["[0] (11, 1)", "[1] (12, 1)"]
    assert run("total").value == "10"
    run("total = 20")
    assert run("%distributed total").lines == ["[0-1] 20"]
    run("step = 0")
    run("%%distributed\nstep += 1 + rank")
    assert run("%distributed step").lines == ["[0] 1", "[1] 2"]
    run("step = 0")  # the same object
    assert run("%distributed step").lines == ["[0-1] 0"]
    run("%%distributed\ntotal = rank")
    run("%accelnb push total")
    assert run("%distributed total").lines == ["[0-1] 20"]


def test_tensors_are_copied_on_write_and_keep_what_they_share(shared_notebook):
    run = shared_notebook.run
    run(
        "import torch\nbig = torch.zeros(1 << 20)\nview = big[:4]\n"
        "model = torch.nn.Linear(2, 2)\nsame = model.weight\n"
        "opt = torch.optim.SGD(model.parameters(), lr=1.0)"
    )
    shown = run(
        "%%distributed\nif rank == 0: big += 1\n"
        "loss = model(torch.ones(1, 2)).sum(); loss.backward(); opt.step()\n"
        "big[0].item(), view[0].item(), same is model.weight, same.grad.sum().item()"
    )
    assert shown.lines == ["[0] (1.0, 1.0, True, 4.0)", "[1] (0.0, 0.0, True, 4.0)"]
    assert run("big.sum().item(), model.weight.grad is None").value == "(0.0, True)"


def test_a_module_beside_the_notebook_and_its_edit(notebook):
    notebook.run("%%writefile beside.py\ndef version(): return 1")
    notebook.run("import beside")
    assert notebook.run("%distributed --procs 2 beside.version()").lines == ["[0-1] 1"]
    notebook.run("%%writefile beside.py\ndef version(): return 22")
    notebook.run("import importlib; importlib.reload(beside)")
    fresh = notebook.run("%%distributed --fresh\nbeside.version()")
    assert fresh.lines == ["[0-1] 22"]


def test_nothing_is_sent_when_one_variable_cannot_be(shared_notebook):
    run = shared_notebook.run
    run("fine, steps = 1, None")
    run("%distributed fine, steps")
    run("fine, steps = 2, (i for i in range(3))")
    run("%%distributed\nfine, steps", fails=True)
    run("steps = None")
    assert run("%distributed fine, steps").lines == ["[0-1] (2, None)"]


def test_what_a_rank_could_not_rebuild_is_sent_again(shared_notebook):
    run = shared_notebook.run
    run("fine, own = 1, 0")
    run("%distributed globals().update(own=rank), fine, own")
    run(
        "import pathlib\n"
        "def rebuild():\n    import os\n"
        "    if os.environ.get('RANK') == '1' and not os.path.exists('mended'): 1 / 0\n"
        "    return []\n"
        "class Fragile:\n    def __reduce__(self): return rebuild, ()\n"
        "fine, fragile = 2, Fragile()"
    )
    output = run("%%distributed\nprint('ran', fine, fragile)", fails=True)
    assert "rank 1: what the notebook sent cannot be rebuilt on rank 1: Zero" in output.error
    assert "[1] ran" not in output.stdout
    run("%distributed --ranks 0 fragile.append('kept')")
    run("pathlib.Path('mended').touch()")
    after = run("%distributed fine, fragile, own")
    assert after.lines == ["[0] (2, ['kept'], 0)", "[1] (2, [], 1)"]


def test_code_that_rebuilds_an_object_finds_the_names_that_it_uses(shared_notebook):
    run = shared_notebook.run
    run(
        "import threading as t\nstart = 5\ndef begin(): return start\n"
        "class Counter:\n    def __init__(self): self.n, self.lock = 0, t.Lock()\n"
        "    def __getstate__(self): return {'n': self.n}\n"
        "    def __setstate__(self, state):\n"
        "        self.n, self.lock = state['n'] + begin(), t.Lock()\n"
        "counter = Counter()"
    )
    assert run("%distributed counter.n, counter.lock.locked()").said == {"(5, False)"}
    run("counter.n = 1")
    assert run("%distributed counter.n").said == {"6"}


def test_only_what_a_rank_did_assign_is_its_own(shared_notebook):
    run = shared_notebook.run
    run("a = b = c = d = e = 'notebook'")
    run("%%distributed\n1 / 0\na = 'rank'", fails=True)  # it did not come to it
    run("%%distributed\nif rank == 0:\n    b = 'rank'")
    run("%%distributed\n%%time\nc = 'rank'")
    run("%%distributed\ndef assign():\n    global d\n    d = 'rank'\nassign()")
    run("%%distributed --detach --out detached\n[e := 'rank' for _ in range(3)]")
    run("detached.wait(10)")
    assert run("%distributed a, b, c, d, e").lines == [
        "[0] ('notebook', 'rank', 'rank', 'rank', 'rank')",
        "[1] ('notebook', 'notebook', 'rank', 'rank', 'rank')",
    ]
    run("%%distributed --detach --out detached\nimport time; time.sleep(0.3); exec('a = 1')")
    run("a = 'anew'")  # while the ranks are about to assign it
    run("detached.wait(10)")
    assert run("%distributed a").lines == ["[0-1] 'anew'"]


def test_what_the_notebook_deletes_is_not_kept_alive_for_the_ranks(shared_notebook):
    run = shared_notebook.run
    run("import weakref\nclass Large: pass\nlarge = [Large()]\nref = weakref.ref(large[0])")
    run("%distributed len(large)")
    run("import gc\ndel large")
    run("gc.collect()")
    assert run("ref() is None").value == "True"


def test_a_rank_that_dies_while_values_are_packed_lacks_nothing_later(shared_notebook):
    run = shared_notebook.run
    run(
        "import os, time, accelnb.notebook.extension as extension\n"
        "class Deadly:\n    def __reduce__(self):\n"
        "        group = extension.session_of(get_ipython()).group\n"
        "        if group.workers[1].exit is None: os.kill(group.workers[1].pid, 9)\n"
        "        while group.workers[1].exit is None: time.sleep(0.01)\n"
        "        return int, (5,)\n"
        "deadly, other = Deadly(), 4"
    )
    run("%distributed other")
    error = run("%distributed deadly, other", fails=True).error
    assert "RankError: rank 1 was killed by SIGKILL" in error
    run("deadly = 6")
    assert run("%distributed deadly, other").said == {"(6, 4)"}
