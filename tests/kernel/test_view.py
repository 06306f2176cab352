"""Output as the user sees it: live, labelled, merged, small."""

from __future__ import annotations

import time

import pytest


def test_a_line_is_seen_while_the_cell_goes_on(shared_notebook):
    seen = {}

    def note(output):
        for word in ("first", "second"):
            if word in output.stdout:
                seen.setdefault(word, time.time())

    shared_notebook.run(
        "%%distributed --out printed\nimport time\nprint('first'); at = time.time()\n"
        "time.sleep(1.5)\nprint('second')\nat",
        on_output=note,
    )
    printed = float(shared_notebook.run("max(printed)").value)
    # Promised are 0.3 s.
    assert seen["first"] - printed < 1.0
    assert seen["second"] - seen["first"] > 0.5


def test_equal_lines_are_merged_and_others_keep_their_order(shared_notebook):
    output = shared_notebook.run(
        "%%distributed --procs 2\nfor epoch in range(3):\n"
        "    print('epoch', epoch)\n    print('mine', rank, epoch)"
    )
    lines = output.lines
    assert [line for line in lines if "epoch" in line] == [f"[0-1] epoch {n}" for n in range(3)]
    for rank in (0, 1):
        own = [line for line in lines if f"[{rank}]" in line]
        assert own == [f"[{rank}] mine {rank} {n}" for n in range(3)]


def test_lines_and_displays_of_a_rank_keep_their_order(shared_notebook):
    states = []
    shared_notebook.run(
        "%%distributed\nfrom IPython.display import display, HTML\n"
        "for i in range(20):\n    display(HTML(f'{rank}'))\n    if rank == 1: print('after', i)",
        on_output=lambda output: states.append(
            (
                sum(display["text/html"] == "1" for display in output.displays),
                output.stdout.count("after"),
            )
        ),
    )
    assert states[-1] == (20, 20)
    assert all(lines <= displays <= lines + 1 for displays, lines in states), states


def test_stderr_is_apart(shared_notebook):
    output = shared_notebook.run(
        "%%distributed\nimport sys\nprint('to err', file=sys.stderr)\nprint('to out')"
    )
    assert output.stdout == "[0-1] to out\n"
    assert output.stderr == "[0-1] to err\n"


def test_a_progress_bar_is_one_line_that_ends_in_its_last_state(shared_notebook):
    output = shared_notebook.run(
        "%%distributed\nfrom tqdm import tqdm\nimport time\n"
        "for i in tqdm(range(20)): time.sleep(0.04)\nprint('done')"
    )
    shown = output.stderr + "".join(display["text/plain"] for display in output.displays)
    assert shown.count("20/20") in (1, 2)  # the ranks' bars differ in their times
    assert shown.count("%|") in (1, 2)
    assert "\r" not in shown
    assert output.lines == ["[0-1] done"]


def test_a_line_that_is_rewritten_a_thousand_times_is_few_messages(shared_notebook):
    messages = []
    output = shared_notebook.run(
        "%%distributed\nimport time\nfor i in range(1001):\n"
        "    print(f'\\r{i / 10:.0f} %', end='')\n    time.sleep(0.001)\nprint()",
        on_output=messages.append,
    )
    assert output.stdout + output.displays[0]["text/plain"] == "[0-1] 100 %"
    assert len(messages) < 100


def test_an_unfinished_line_is_seen_and_completed(shared_notebook):
    output = shared_notebook.run(
        "%%distributed --ranks 0\nimport time\nprint('half', end=' ')\ntime.sleep(0.6)\n"
        "print('whole')\nprint('no newline', end='')"
    )
    shown = output.stdout + "".join(display["text/plain"] for display in output.displays)
    assert "[0] half whole" in shown
    assert "[0] no newline" in shown


def test_output_of_c_code_subprocesses_and_threads_is_heard(shared_notebook):
    output = shared_notebook.run(
        "%%distributed --ranks 0\nimport os, subprocess, threading\n"
        "os.write(1, b'raw \\xff bytes\\n')\nsubprocess.run(['echo', 'from echo'])\n"
        "thread = threading.Thread(target=print, args=('from a thread',))\n"
        "thread.start(); thread.join()\nos.write(2, b'raw error\\n');"
    )
    assert output.lines == ["[0] raw \ufffd bytes", "[0] from echo", "[0] from a thread"]
    assert output.stderr == "[0] raw error\n"


def test_each_rank_updates_its_own_displays(shared_notebook):
    output = shared_notebook.run(
        "%%distributed\nfrom IPython.display import display, HTML\n"
        "handle = display(HTML('before'), display_id='one')\n"
        "text = display('text before', display_id=True)\n"
        "handle.update(HTML(f'after {rank}')); text.update(f'text after {rank}')"
    )
    assert [d["text/html"] for d in output.displays if "text/html" in d] == ["after 0", "after 1"]
    assert [d["text/plain"] for d in output.displays if "text/html" not in d] == [
        "[0] 'text after 0'",
        "[1] 'text after 1'",
    ]


@pytest.mark.parametrize("wait", [False, True])
def test_clear_output_clears_the_cell_and_a_progress_bar_goes_on(shared_notebook, wait):
    output = shared_notebook.run(
        "%%distributed\nfrom IPython.display import clear_output\nfrom tqdm import tqdm\n"
        "import time\nprint('before', rank)\n"
        "for i in tqdm(range(20)):\n    time.sleep(0.04)\n"
        f"    if i == 10: clear_output(wait={wait})\n"
        "print('after')"
    )
    assert output.lines == ["[0-1] after"]
    assert len(output.displays) == 1
    bars = output.displays[0]["text/plain"].splitlines()
    assert bars
    assert all("20/20" in bar for bar in bars)
