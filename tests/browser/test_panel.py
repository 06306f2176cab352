"""The panel in JupyterLab, as its user works with it."""

from __future__ import annotations

from playwright.sync_api import expect


def test_the_panel_leads_from_a_choice_to_a_cell_that_runs_with_it(open_notebook, lab):
    notebook = open_notebook(
        "%load_ext accelnb",
        "%accelnb",
        "%%distributed\nimport os; world_size, os.environ['ACCELERATE_MIXED_PRECISION']",
        name="panel",
    )
    page = notebook.page
    notebook.run_cell(0)
    notebook.run_cell(1)
    panel = page.locator(".accelnb-panel")
    panel.wait_for()
    expect(panel.get_by_role("radio", name="auto")).to_be_checked()
    expect(panel.get_by_role("radio", name="fp8")).to_be_disabled()
    expect(panel).to_contain_text("fp8 cpu cannot; choose one of no, bf16, fp16")

    # The keyboard alone: arrows go from choice to choice and stay in the cell.
    panel.get_by_role("radio", name="no", exact=True).focus()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("Enter")
    expect(panel.get_by_role("radio", name="bf16")).to_be_checked()
    panel.get_by_label("Processes").focus()
    page.keyboard.press("ArrowUp")
    expect(panel).to_contain_text("%%distributed --procs 3 --precision bf16")
    panel.get_by_role("button", name="Copy the first line of a cell").click()
    copied = "%%distributed --procs 3 --precision bf16"
    assert page.evaluate("getSelection().toString()").strip() == copied

    panel.get_by_role("button", name="Test", exact=True).click()
    expect(panel.get_by_role("status")).to_contain_text("Test passed", timeout=60_000)
    expect(panel.get_by_role("table")).to_contain_text("equal weights on all ranks")
    for theme in ("Light", "Dark"):
        for width in (1400, 700):
            notebook.show_as(theme, width)
            panel.scroll_into_view_if_needed()
            notebook.screenshot(f"panel-{theme.lower()}-{width}")
    notebook.show_as("Light", 1400)
    panel.get_by_role("button", name="Save").click()
    expect(panel.get_by_role("status")).to_contain_text("Saved to")
    assert "procs: 3" in (lab.folder / "accelnb.yaml").read_text()
    notebook.run_cell(2)
    assert "(3, 'bf16')" in notebook.output(2)
    assert notebook.console_errors == []


def test_a_saved_notebook_shows_what_was_chosen_when_the_panel_is_gone(open_notebook):
    notebook = open_notebook("%load_ext accelnb", "%accelnb", name="saved-panel")
    notebook.run_cell(0)
    notebook.run_cell(1)
    output = notebook.page.locator(".jp-CodeCell").nth(1).locator(".jp-OutputArea")
    said = output.get_by_text("The panel of accelnb was opened here with")
    output.locator(".accelnb-panel").wait_for()
    expect(said).to_be_hidden()
    notebook.save()
    notebook.page.evaluate("jupyterapp.serviceManager.sessions.shutdownAll()")
    notebook.page.reload()
    notebook.page.locator('[data-status="idle"]').first.wait_for(state="attached")
    broken = output.get_by_text("Error displaying widget")
    broken.wait_for(state="attached")
    expect(broken).to_be_hidden()
    expect(said).to_be_visible()
