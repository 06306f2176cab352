"""The live view of a run, in real front ends: JupyterLab and Notebook 7."""

from __future__ import annotations

import re
import subprocess
import sys

from playwright.sync_api import expect

expect.set_options(timeout=30_000)

# Ranks then start at once, as for a person who reads on before the next cell.
LOAD = """%load_ext accelnb
from accelnb.engine.launchers.local import fork_server
fork_server().wait_ready()"""
SHORT = "%%distributed --procs 2\nprint('short', rank)"
TRAIN = """%%distributed
import math, time, accelnb
from tqdm import tqdm
for step in tqdm(range(400), desc="train"):
    accelnb.stream("loss", math.exp(-step / 60) + 0.03 * math.sin(step + 2 * rank), step)
    if step % 25 == 0:
        print(f"step {step}: checkpoint written")
    time.sleep(0.03)"""
STALLED = """%%distributed --stall 1
import time, torch.distributed as dist
print("before the barrier")
if rank == 0:
    dist.barrier()
else:
    time.sleep(30)  # never comes to it"""
FAILS = """%%distributed
import time
for step in range(12):
    print("step", step)
    time.sleep(0.1)
share = 1 / (1 - rank)"""

LOOKS = (("Light", 1400), ("Light", 700), ("Dark", 700), ("Dark", 1400))


def test_a_run_is_live_can_be_stopped_and_leaves_its_end_state(open_notebook, lab):
    notebook = open_notebook(LOAD, SHORT, TRAIN, STALLED, FAILS, name="live")
    page, cells = notebook.page, notebook.page.locator(".jp-CodeCell")
    page.evaluate("jupyterapp.commands.execute('application:toggle-left-area')")
    notebook.run_cell(0)
    notebook.run_cell(1)
    assert notebook.output(1).split("\n") == ["[0] short 0", "[1] short 1"]

    notebook.run_cell(2, wait=False)
    line = cells.nth(2).locator(".anb-chart path").first
    expect(line).to_have_attribute("d", re.compile("."))
    rows = cells.nth(2).locator(".anb-ranks tbody tr")
    expect(rows).to_have_count(2)
    first = line.get_attribute("d"), rows.nth(1).inner_text()
    expect(line).not_to_have_attribute("d", first[0])
    expect(rows.nth(1)).not_to_have_text(first[1])
    expect(cells.nth(2).locator(".anb-log")).to_contain_text("step 25: checkpoint written")
    pictures(notebook, "live-running", 2, LOOKS)
    stop(page)
    notebook.wait_idle(2)
    assert "stopped after" in notebook.output(2)
    assert "KeyboardInterrupt: stopped ranks 0-1; variables are kept" in notebook.output(2)

    notebook.run_cell(3, wait=False)
    expect(cells.nth(3)).to_contain_text("rank 0 in barrier: rank 1 did not come to it")
    expect(cells.nth(3).locator(".anb-ranks")).to_contain_text("waiting in barrier")
    pictures(notebook, "live-stalled", 3)
    stop(page)
    notebook.wait_idle(3)

    notebook.run_cell(4)
    assert "rank 1: ZeroDivisionError: division by zero (Cell In[5], line 6)" in notebook.output(4)
    pictures(notebook, "live-failed", 4)
    pictures(notebook, "live-finished", 2, LOOKS)

    # Once its kernel is gone.
    page.evaluate("jupyterapp.serviceManager.sessions.shutdownAll()")
    notebook.reload()
    for cell in (2, 3, 4):
        expect(cells.nth(cell)).to_contain_text("2 cpu ranks")
    expect(cells.nth(2).locator("img[alt='loss over steps']")).to_be_visible()
    assert "displaying widget" not in page.locator(".jp-Notebook").inner_text()
    page_of_it = exported(lab.folder / "live.ipynb")
    assert "step 25: checkpoint written" in page_of_it
    assert 'alt="loss over steps"' in page_of_it
    assert not notebook.console_errors


def test_a_page_that_is_loaded_again_while_a_cell_runs_shows_how_it_ended(open_notebook):
    notebook = open_notebook(LOAD, TRAIN.replace("400", "120"), name="reloaded")
    notebook.run_cell(0)
    notebook.run_cell(1, wait=False)
    output = notebook.page.locator(".jp-CodeCell").nth(1)
    expect(output.locator(".anb-log")).to_contain_text("step 25")
    notebook.reload()
    expect(output).to_contain_text("Done", timeout=30_000)
    expect(output.locator(".anb-log")).to_contain_text("step 100: checkpoint written")
    expect(output.locator(".anb-log")).to_contain_text("step 0: checkpoint written")


def test_notebook_7_shows_and_stops_many_ranks(open_notebook):
    cell = "%%distributed --procs 16\nimport time\nfor i in range(600):\n"
    cell += "    print('at', i); time.sleep(0.05)"
    notebook = open_notebook(LOAD, cell, name="classic", front_end="notebook 7")
    page = notebook.page
    notebook.run_cell(0)
    notebook.run_cell(1, wait=False)
    rows = page.locator(".anb-ranks tbody tr")
    expect(rows).to_have_count(16)
    expect(page.locator(".anb-ranks")).to_contain_text(" MB")  # once its columns are all there
    view = page.locator(".anb-scroll").first.bounding_box()
    assert view is not None
    assert view["height"] < 500  # the ranks scroll in a box
    rows.last.scroll_into_view_if_needed()
    expect(rows.last).to_contain_text("at")
    notebook.screenshot("live-notebook-7")
    stop(page)
    notebook.wait_idle(1)
    assert "stopped after" in notebook.output(1)


def stop(page):
    """Press the view's own stop button."""
    page.get_by_role("button", name="Stop the ranks of this cell").click()


def pictures(notebook, name, cell, looks=(("Light", 1400), ("Dark", 700))):
    """Take pictures of a cell in themes and widths."""
    place = notebook.page.locator(".jp-CodeCell").nth(cell)
    for theme, width in looks:
        notebook.show_as(theme, width)
        place.evaluate("cell => cell.scrollIntoView()")
        notebook.screenshot(f"{name}-{theme.lower()}-{width}")


def exported(path):
    """Return what `nbconvert --to html` makes of a notebook."""
    command = [sys.executable, "-m", "nbconvert", "--to", "html", "--stdout", str(path)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout
