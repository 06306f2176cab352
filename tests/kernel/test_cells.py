"""What a `%%distributed` cell does, as its user sees it."""

from __future__ import annotations


def test_a_cell_runs_on_every_rank_and_shows_its_value(notebook):
    output = notebook.run("%%distributed --procs 2\nprint('hello')\nrank * 10")
    assert output.lines == ["[0-1] hello", "[0] 0", "[1] 10"]
