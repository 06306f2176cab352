"""Tab and Shift-Tab in cells for the ranks, asked as a front end asks."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
from harness import Notebook, wait_until
from IPython.core.completer import provisionalcompleter
from IPython.core.interactiveshell import InteractiveShell

from accelnb.notebook.auto_mode import AutoCells
from accelnb.notebook.completion import Assist
from accelnb.notebook.session import Session

pytestmark = pytest.mark.alone  # a rank has 0.1 s to answer

SETUP = """%%distributed --procs 2
import threading
import torch
class Tracker:
    @property
    def waits(self):
        torch.distributed.barrier()  # of rank 0 alone: for ever
    @property
    def device(self) -> torch.device: ...
class Endless:
    def __dir__(self):
        while True:
            try:
                threading.Event().wait(60)
            except Exception: ...
    def __repr__(self):
        return dir(self)
model_on_ranks = torch.nn.ModuleDict({"head": torch.nn.Linear(2, 2)})
state_on_ranks = {"epoch": 1, "it's": 2, "losses": {"train": 0.5}}
lock_on_ranks = threading.Lock()
endless_on_ranks = Endless()
tracker_on_ranks = Tracker()
def teach_on_ranks(rate: float):
    '''Teach it at a rate.'''
"""


@pytest.fixture(scope="module")
def lab(shared_notebook: Notebook) -> Notebook:
    shared_notebook.run(SETUP)
    shared_notebook.run("model_here = 1\nstate_on_ranks = {'stale': 1}")
    # The first question of all loads what answers it, which may take too long.
    assert wait_until(lambda: bool(matches(shared_notebook, "%%distributed\nlock_on_r|")), 10)
    return shared_notebook


def complete(notebook: Notebook, code: str) -> dict[str, Any]:
    """Press Tab at the bar in `code`; return the reply, with `types` by text and `seconds`."""
    cursor = code.index("|")
    start = time.monotonic()
    client: Any = notebook.client
    reply = client.complete(code.replace("|", ""), cursor, reply=True, timeout=30)
    content = reply["content"]
    typed = content["metadata"].get("_jupyter_types_experimental", [])
    content["types"] = {match["text"]: match["type"] for match in typed}
    content["seconds"] = time.monotonic() - start
    return content


def matches(notebook: Notebook, code: str) -> list[str]:
    return complete(notebook, code)["matches"]


def inspect(notebook: Notebook, code: str, detail: int = 0) -> str:
    """Press Shift-Tab at the bar in `code`; return the text that is shown."""
    cursor = code.index("|")
    client: Any = notebook.client
    reply = client.inspect(code.replace("|", ""), cursor, detail, reply=True, timeout=30)
    content = reply["content"]
    return content["data"]["text/plain"] if content["found"] else ""


def test_a_distributed_cell_completes_the_names_of_the_ranks_and_then_the_notebooks(lab: Notebook):
    reply = complete(lab, "%%distributed\nx = mod|")
    assert reply["matches"][0] == "model_on_ranks"
    assert "model_here" in reply["matches"]
    assert reply["types"]["model_on_ranks"] == "instance"
    assert (reply["cursor_start"], reply["cursor_end"]) == (18, 21)
    both = matches(lab, "%%distributed\nprint(state|")
    assert both.count("state_on_ranks") == 1
    assert complete(lab, "%%distributed\nteach|")["types"]["teach_on_ranks"] == "function"
    assert matches(lab, "%%distributed\nlock_on|") == ["lock_on_ranks"]  # cannot be pickled
    assert "model_on_ranks" in matches(lab, "%distributed --ranks 0 mod|")


def test_attributes_and_keys_of_the_ranks_are_completed(lab: Notebook):
    head = complete(lab, '%%distributed\nprint(model_on_ranks["head"].wei|)')
    assert head["matches"][0] == "weight"
    assert "requires_grad_" in matches(lab, "%%distributed\nmodel_on_ranks.head.weight.req|")
    assert "index" in matches(lab, "%%distributed\ntracker_on_ranks.device.|")  # not run: declared
    assert matches(lab, '%%distributed\nstate_on_ranks["|"]')[:2] == ["epoch", "it's"]
    assert matches(lab, "%%distributed\nstate_on_ranks['i|")[0] == "it\\'s"
    assert matches(lab, "%%distributed\nstate_on_ranks['losses'][|")[0] == "'train'"


def test_inspection_shows_what_the_ranks_have(lab: Notebook):
    assert "Teach it at a rate" in inspect(lab, "%%distributed\nteach_on_ranks(|0.1)")
    assert "ModuleDict" in inspect(lab, "%%distributed\nmodel_on_ra|nks.head")
    assert "'''Teach" in inspect(lab, "%%distributed\nteach_on_ranks|", detail=1)
    assert "Return the absolute" in inspect(lab, "%%distributed\nabs|(1)")  # the notebook's answer


def test_cells_of_the_notebook_and_the_options_of_a_magic_line_are_completed_as_before(
    lab: Notebook,
):
    assert "lock_on_ranks" not in matches(lab, "lock_on|")
    assert inspect(lab, "teach_on_ranks|") == ""
    assert "--precision" in matches(lab, "%%distributed --prec|")
    assert "lock_on_ranks" not in matches(lab, "%%distributed\n# a comment on lock_on|")
    assert "lock_on_ranks" not in matches(lab, "%%distributed\nprint('the lock_on|')")


def test_what_hangs_when_it_is_looked_at_is_given_up_and_the_ranks_stay_usable(lab: Notebook):
    for code in ("endless_on_ranks.|", "tracker_on_ranks.waits.|"):
        reply = complete(lab, f"%%distributed\n{code}")
        assert reply["seconds"] < 1.0
        assert "head" not in reply["matches"]
    start = time.monotonic()
    inspect(lab, "%%distributed\nendless_on_ranks|")
    assert time.monotonic() - start < 1.0
    lab.run("%distributed torch.distributed.barrier()")
    assert matches(lab, "%%distributed\nlock_on|") == ["lock_on_ranks"]


def test_busy_ranks_are_not_waited_for(lab: Notebook):
    lab.run("%distributed --detach --out busy __import__('time').sleep(60)")
    try:
        reply = complete(lab, "%%distributed\nmodel|")
        assert "model_on_ranks" not in reply["matches"]
        assert "model_here" in reply["matches"]
        assert reply["seconds"] < 1.0
        assert inspect(lab, "%%distributed\nteach_on_ranks|") == ""
    finally:
        lab.run("%accelnb interrupt")

    def answers() -> bool:
        return matches(lab, "%%distributed\nlock_on|") == ["lock_on_ranks"]

    assert wait_until(answers, 10)


def test_when_every_cell_is_for_the_ranks_what_a_front_end_asks_for_itself_is_not(lab: Notebook):
    lab.run("%accelnb auto on")
    try:
        assert matches(lab, "# of the ranks\nlock_on|") == ["lock_on_ranks"]
        assert "lock_on_ranks" not in matches(lab, "%%local\nlock_on|")
        shown = lab.client.execute_interactive("teach_on_ranks?", timeout=30)
        assert "Teach it" in shown["content"]["payload"][0]["data"]["text/plain"]
        lab.client.execute_interactive("by_program = 1", store_history=False, timeout=30)
    finally:
        lab.run("%accelnb auto off")
    assert lab.run("by_program").value == "1"


def test_without_ranks_and_after_unloading_a_shell_completes_by_itself(tmp_path: Path):
    shell = InteractiveShell(ipython_dir=str(tmp_path))
    own = shell.Completer.completions
    session = Session(shell)
    assist = Assist(shell, session, AutoCells(shell, session))
    assist.install()
    shell.push({"there_is": 1})
    with provisionalcompleter():
        found = [c.text for c in shell.Completer.completions("%%distributed\nthere_i", 21)]
    assert found == ["there_is"]
    assist.remove()
    assert shell.Completer.completions == own
    assert "accelnb" not in shell.magics_manager.magics["line"]["pinfo"].__module__
    InteractiveShell.clear_instance()
