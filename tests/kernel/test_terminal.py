"""Terminal IPython, as its user types into it."""

from __future__ import annotations

import os
import pty
import select
import subprocess
import sys
import time

import psutil
import pytest
from harness import accelnb_processes, wait_until, without_colours

pytestmark = pytest.mark.alone  # it looks at all processes of the machine

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


def test_a_progress_bar_in_a_terminal_ends_above_the_lines_that_follow(tmp_path):
    shown = typed_in_a_terminal(
        "%load_ext accelnb\n%%distributed --procs 2\nimport time\n"
        "for i in range(11):\n"
        "    print(f'\\r{i * 10} % of it', end='', flush=True); time.sleep(0.05)\n\n\n"
        "%distributed print('next')\nexit()\n",
        tmp_path,
    )
    final = shown.rindex("[0-1] 100 % of it\r\n")
    assert any(f"] {i * 10} % of it" in shown[:final] for i in range(10))  # while it grew
    assert final < shown.index("[0-1] next\r\n")


def typed_in_a_terminal(text: str, folder) -> str:
    """Return what IPython shows in a terminal where `text` is typed."""
    terminal, slave = pty.openpty()
    command = [sys.executable, "-m", "IPython", "--simple-prompt", "--no-banner"]
    ipython = subprocess.Popen(command, cwd=folder, stdin=slave, stdout=slave, stderr=slave)
    os.close(slave)
    os.write(terminal, text.encode())
    shown, end = b"", time.monotonic() + 60
    try:
        while ipython.poll() is None and time.monotonic() < end:
            if select.select([terminal], [], [], 0.1)[0]:
                shown += os.read(terminal, 1 << 16)
        assert ipython.returncode == 0, shown.decode()
    except OSError:  # EIO: the other end is closed
        assert ipython.wait(5) == 0, shown.decode()
    finally:
        ipython.kill()
        ipython.wait(5)
        os.close(terminal)
    return without_colours(shown.decode())
