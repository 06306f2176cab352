"""Terminal IPython, as its user types into it."""

from __future__ import annotations

import subprocess
import sys

import psutil
from conftest import accelnb_processes, wait_until

SESSION = """%load_ext accelnb
%distributed --procs 2 print('hello'), rank * 10
%%distributed
print('line one')
1 / (rank - 1)


x = 5
%distributed x + 1
%%distributed --out twice
2 * rank


list(twice)
exit()
"""


def test_cells_errors_and_exit_in_a_terminal(tmp_path):
    before = accelnb_processes()
    ipython = subprocess.run(
        [sys.executable, "-m", "IPython", "--simple-prompt", "--no-banner", "--colors=NoColor"],
        input=SESSION,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=100,
    )
    shown = ipython.stdout
    assert "[0-1] hello" in shown
    assert "[1] (None, 10)" in shown
    assert "[0-1] line one" in shown
    assert "RankError: rank 1: ZeroDivisionError" in shown
    assert "[0-1] 6" in shown
    assert "[0, 2]" in shown
    assert wait_until(lambda: not accelnb_processes() - before, 5)
    assert ipython.returncode == 0
    assert not [p for p in psutil.Process().children() if "IPython" in " ".join(p.cmdline())]
