"""The live view as the messages that a front end with widgets gets."""

from __future__ import annotations

import collections
from typing import Any

WIDGET = "application/vnd.jupyter.widget-view+json"


def run_as_front_end(notebook, code: str) -> list[dict[str, Any]]:
    """Run a cell as JupyterLab asks for it; return the messages that it gets."""
    client = notebook.client
    content = {"code": code, "silent": False, "store_history": True, "allow_stdin": False}
    request = client.session.msg("execute_request", content, metadata={"cellId": "a1"})
    client.shell_channel.send(request)
    client.get_shell_msg(timeout=60)
    messages = []
    while True:
        message = client.get_iopub_msg(timeout=10)
        if message["parent_header"].get("msg_id") != request["header"]["msg_id"]:
            continue
        messages.append(message)
        if message["content"].get("execution_state") == "idle":
            return messages


def kinds(messages) -> collections.Counter[str]:
    return collections.Counter(message["msg_type"] for message in messages)


def shown(messages) -> dict[str, Any]:
    """Return what the run's own display shows at the end."""
    displays = [m["content"] for m in messages if "display_data" in m["msg_type"]]
    return [c["data"] for c in displays if c["transient"]][-1]


def test_a_short_cell_leaves_its_lines_and_makes_no_widget(shared_notebook):
    messages = run_as_front_end(shared_notebook, "%%distributed\nprint('hello', rank)\n7")
    assert shown(messages) == {"text/plain": "[0] hello 0\n[1] hello 1\n[0-1] 7"}
    assert not kinds(messages)["comm_open"]
    assert not kinds(run_as_front_end(shared_notebook, "%distributed None"))["display_data"]


def test_updates_are_few_whatever_the_ranks_print(shared_notebook):
    cell = "%%distributed\nimport time\nend = time.time() + 3\nn = 0\n"
    cell += "while time.time() < end: n += 1; print('line', n, 'of', rank)\nn"
    messages = run_as_front_end(shared_notebook, cell)
    sent = [m["header"]["date"] for m in messages if m["msg_type"] == "comm_msg"]
    # The end of the run and of its first seconds may each be told besides.
    assert 3 < len(sent) <= 10 * (sent[-1] - sent[0]).total_seconds() + 3
    end = shown(messages)
    assert WIDGET not in end
    assert "more lines, in full in" in end["text/html"]
    assert end["text/plain"].splitlines()[-1].startswith("done in 3.")


def test_a_view_that_fails_gives_way_to_text(shared_notebook):
    shared_notebook.run(
        "import accelnb.notebook.views.live_view.widget as _widget\n_made = _widget._widget_class\n"
        "def _fails(): raise OSError('no such file')\n_widget._widget_class = _fails"
    )
    cell = "%%distributed\nimport time\nfor i in range(4): print(i); time.sleep(0.2)"
    end = shown(run_as_front_end(shared_notebook, cell))["text/plain"]
    shared_notebook.run("_widget._widget_class = _made")
    assert "[0-1] 3" in end
    assert "the live view failed, text stands in: OSError: no such file" in end


def test_captured_output_is_text(shared_notebook):
    messages = run_as_front_end(
        shared_notebook, "%%capture out\n%%distributed\nimport time; time.sleep(0.6); print('in')"
    )
    assert not kinds(messages)["comm_open"]
    assert shared_notebook.run("print(out.stdout)").stdout == "[0-1] in\n\n"


def test_a_detached_run_ends_with_its_error_and_is_shown_as_a_value(shared_notebook):
    run_as_front_end(
        shared_notebook,
        "%%distributed --detach --out run\nimport time\ntime.sleep(0.8)\n1 / rank",
    )
    output = shared_notebook.run("run.wait(10)\nimport time; time.sleep(1)\nrun")
    assert "failed after" in output.displays[-1]["text/html"]
    assert "ZeroDivisionError" in output.displays[-1]["text/html"]
    assert output.value.startswith("<Run on ranks 0-1: failed")
