"""A real JupyterLab in a real Chromium."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nbformat
import pytest
from playwright.sync_api import ConsoleMessage, Page, expect, sync_playwright

_FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
]
_SERVER_START = 60  # s
# A key that is pressed before the kernel is there runs nothing.
_CONNECTED = """() => {
    const kernel = window.jupyterapp.shell.currentWidget?.sessionContext?.session?.kernel;
    return kernel?.connectionStatus === "connected" && kernel.status === "idle";
}"""
_SCREENSHOTS = Path(__file__).parents[2] / "build" / "screenshots"


@pytest.fixture(scope="session")
def chromium() -> str:
    """The system's Chromium; a test that needs it is skipped where there is none."""
    found = shutil.which("chromium") or shutil.which("chromium-browser")
    if found:
        return found
    if os.environ.get("ACCELNB_REQUIRE_SYSTEM_TESTS"):
        pytest.fail("Chromium is not installed, and ACCELNB_REQUIRE_SYSTEM_TESTS is set")
    pytest.skip("needs Chromium (Debian package: chromium)")


class Lab:
    """A JupyterLab server on a free port, with folders of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "notebooks"
        self.folder.mkdir()
        settings = folder / "lab"
        settings.mkdir()
        # No toast that offers news: it would lie over the notebook.
        off = {"disabledExtensions": {"@jupyterlab/apputils-extension:announcements": True}}
        (settings / "page_config.json").write_text(json.dumps(off))
        names = ("CONFIG_DIR", "DATA_DIR", "RUNTIME_DIR")
        own = {f"JUPYTER_{name}": str(folder / name.lower()) for name in names}
        self._process = subprocess.Popen(
            [
                sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root", "--port=0",
                "--IdentityProvider.token=test", "--LabApp.expose_app_in_browser=True",
                "--JupyterNotebookApp.expose_app_in_browser=True",
                f"--LabApp.app_settings_dir={settings}", f"--ServerApp.root_dir={self.folder}",
            ],
            env=os.environ | own,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )  # fmt: skip
        self.url = self._read_url()

    def _read_url(self) -> str:
        assert self._process.stderr is not None
        for line in self._process.stderr:
            if "http://" in line and "token=" in line:
                return line[line.index("http://") :].split("/lab")[0].split("/?")[0].strip()
        raise AssertionError("JupyterLab ended before it served")

    def close(self) -> None:
        self._process.terminate()
        try:
            self._process.wait(15)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


@pytest.fixture(scope="module")
def lab(chromium: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    lab = Lab(tmp_path_factory.mktemp("lab"))
    yield lab
    lab.close()


@pytest.fixture(scope="module")
def browser(chromium: str) -> Iterator[Any]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=_FLAGS)
        yield browser
        browser.close()


class OpenNotebook:
    """A notebook open in the browser."""

    def __init__(self, page: Page, name: str) -> None:
        self.page = page
        self._name = name
        self.console_errors: list[str] = []
        page.on("console", self._on_console)

    def _on_console(self, message: ConsoleMessage) -> None:
        if message.type == "error":
            self.console_errors.append(message.text)

    def run_cell(self, index: int, wait: bool = True) -> None:
        """Run a cell as Shift-Enter does; wait until the kernel is idle again."""
        self.page.locator(".jp-CodeCell").nth(index).locator(".cm-content").click()
        self.page.keyboard.press("Shift+Enter")
        if wait:
            self.wait_idle(index)

    def wait_idle(self, index: int) -> None:
        prompt = self.page.locator(".jp-CodeCell").nth(index).locator(".jp-InputArea-prompt")
        expect(prompt).not_to_contain_text("*", timeout=60_000)
        expect(prompt).not_to_have_text("[ ]:", timeout=60_000)

    def output(self, index: int) -> str:
        return self.page.locator(".jp-CodeCell").nth(index).locator(".jp-OutputArea").inner_text()

    def show_as(self, theme: str, width: int) -> None:
        """Show it in the theme "Light" or "Dark", in a window of this width."""
        self.page.set_viewport_size({"width": width, "height": 1100})
        change = "theme => jupyterapp.commands.execute('apputils:change-theme', {theme})"
        self.page.evaluate(change, f"JupyterLab {theme}")
        self.page.locator(f'body[data-jp-theme-name="JupyterLab {theme}"]').wait_for(
            state="attached"
        )
        self.page.locator("#jupyterlab-splash").wait_for(state="detached")  # while it changes

    def save(self) -> None:
        """Write the notebook to its file."""
        self.page.evaluate("jupyterapp.commands.execute('docmanager:save')")

    def reload(self) -> None:
        """Load the page again, as it was saved."""
        with self.page.expect_response(f"**/api/contents/{self._name}.ipynb*"):
            self.save()
        self.page.reload()
        self.page.locator(".jp-CodeCell").first.wait_for()

    def screenshot(self, name: str) -> None:
        _SCREENSHOTS.mkdir(parents=True, exist_ok=True)
        self.page.screenshot(path=_SCREENSHOTS / f"{name}.png")


@pytest.fixture
def open_notebook(lab: Lab, browser: Any) -> Iterator[Any]:
    """Return a function that opens cells as a notebook in JupyterLab."""
    context = browser.new_context(viewport={"width": 1400, "height": 1100})
    page = context.new_page()
    page.set_default_timeout(60_000)

    def open_cells(*cells: str, name: str = "test", front_end: str = "lab") -> OpenNotebook:
        notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(c) for c in cells])
        notebook.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3"}
        nbformat.write(notebook, lab.folder / f"{name}.ipynb")
        if front_end == "notebook 7":
            page.goto(f"{lab.url}/notebooks/{name}.ipynb?token=test")
        else:
            page.goto(f"{lab.url}/lab/tree/{name}.ipynb?reset&token=test")
            page.locator("#jupyterlab-splash").wait_for(state="detached")
        page.locator('.jp-Notebook-ExecutionIndicator[data-status="idle"]').wait_for()
        page.wait_for_function(_CONNECTED)
        return OpenNotebook(page, name)

    yield open_cells
    page.evaluate("window.jupyterapp?.serviceManager.sessions.shutdownAll()")
    context.close()
