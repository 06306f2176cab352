"""Which front end asked for a cell, and what differs there."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import nbformat
import pytest
from harness import Notebook
from nbclient import NotebookClient

from accelnb.jupyter.front_ends import host

ASK = "from accelnb.jupyter import front_ends as f; print(f.host(), f.shows_widgets())"

# What Colab's own kernel is to us: a kernel class of google.colab, and its `output`.
COLAB = {
    "google/__init__.py": "",
    "google/colab/__init__.py": "",
    "google/colab/_kernel.py": "class Kernel:\n    def get_parent(self, channel): return {}\n",
    "google/colab/output/__init__.py": """
from google.colab.output import _widgets
def enable_custom_widget_manager():
    assert _widgets._installed_url is None, "enabled twice"
    _widgets._installed_url = "https://example.org/manager.js"
""",
    "google/colab/output/_widgets.py": "_installed_url = None\n",
}
IN_COLAB = """
import IPython
from google.colab._kernel import Kernel
shell = IPython.InteractiveShell.instance()
shell.kernel = Kernel()
from accelnb.jupyter import front_ends as f
print(f.host(), f.shows_widgets(), f.has_subshells(), f.widget_metadata())
f.prepare_widgets(), f.prepare_widgets()
print(f.widget_metadata())
print(f.notebook_folder(shell))
"""
ON_KAGGLE = """
import IPython
from pathlib import Path
from types import SimpleNamespace
shell = IPython.InteractiveShell.instance()
shell.kernel = SimpleNamespace(get_parent=lambda channel: {}, _supports_kernel_subshells=True)
from accelnb.jupyter import front_ends as f
f._KAGGLE_FOLDER = Path("kaggle").absolute()
print(f.host(), f.shows_controls(), f.shows_widgets(), f.has_subshells())
print(f.notebook_folder(shell).name)
"""


@pytest.fixture(scope="module")
def kernel(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Notebook]:
    """A kernel without the extension."""
    notebook = Notebook(tmp_path_factory.mktemp("hosts"))
    yield notebook
    notebook.close()


def run_as(kernel: Notebook, code: str, **metadata: str) -> str:
    """Run code as a front end does that sends this metadata with the request."""
    plain = kernel.client.session.msg

    def with_metadata(msg_type: str, *args: object, **kwargs: object) -> dict[str, object]:
        message = plain(msg_type, *args, **kwargs)  # type: ignore[arg-type]
        if msg_type == "execute_request":
            message["metadata"].update(metadata)
        return message

    kernel.client.session.msg = with_metadata  # type: ignore[method-assign]
    try:
        return kernel.run(code).stdout.strip()
    finally:
        kernel.client.session.msg = plain  # type: ignore[method-assign]


def test_the_request_says_who_asks(kernel: Notebook):
    assert run_as(kernel, ASK) == "Jupyter False"  # as nbclient and consoles ask
    assert run_as(kernel, ASK, cellId="6f1c2d") == "Jupyter True"
    assert run_as(kernel, ASK, cellId="vscode-notebook-cell:/a/b.ipynb#W0") == "VS Code True"
    in_lab = "from accelnb.jupyter import front_ends as f; print(f.has_subshells())"
    assert run_as(kernel, in_lab, cellId="6f1c2d") == "True"
    assert run_as(kernel, in_lab, cellId="vscode-notebook-cell:/a/b.ipynb#W0") == "False"


def test_the_user_has_the_last_word_on_the_view(kernel: Notebook):
    def ask(value: str, **metadata: str) -> str:
        choose = f"import os; os.environ['ACCELNB_VIEW'] = '{value}'\n"
        return run_as(kernel, choose + ASK, **metadata)

    try:
        assert ask("plain", cellId="6f1c2d") == "Jupyter False"
        assert ask("live") == "Jupyter True"
        wrong = kernel.run("os.environ['ACCELNB_VIEW'] = 'both'\n" + ASK, fails=True)
        assert "ACCELNB_VIEW=both: choose plain or live" in wrong.error
    finally:
        kernel.run("os.environ.pop('ACCELNB_VIEW', None)")


def test_the_report_of_the_environment_is_shown_as_html_and_as_text(kernel: Notebook):
    shown = kernel.run("from accelnb.cli import env; env.show()").displays[0]
    assert "Hardware" in shown["text/html"]
    assert "processors" in shown["text/plain"]
    text = kernel.run("env.show(plain=True)").stdout
    assert re.search(r"^  host +Jupyter$", text, re.MULTILINE)


def test_nbclient_gets_no_widgets(tmp_path: Path):
    book = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(ASK)])
    resources = {"metadata": {"path": str(tmp_path)}}
    NotebookClient(book, timeout=60, kernel_name="python3", resources=resources).execute()
    assert book.cells[0].outputs[0].text == "Jupyter False\n"


def test_the_notebook_folder_is_that_of_the_file(kernel: Notebook, tmp_path: Path):
    started = run_as(kernel, "import os; print(os.getcwd())")
    ask = "print(f.notebook_folder(get_ipython()))"
    # In a kernel that was told nothing it stays where the kernel started.
    kernel.run(f"from accelnb.jupyter import front_ends as f; os.chdir({str(tmp_path)!r})")
    assert run_as(kernel, ask) == started
    kernel.run(f"os.environ['JPY_SESSION_NAME'] = {str(tmp_path / 'a.ipynb')!r}")
    assert run_as(kernel, ask) == str(tmp_path)
    kernel.run("os.environ['JPY_SESSION_NAME'] = '/moved/away/a.ipynb'")
    assert run_as(kernel, ask) == started
    kernel.run("__vsc_ipynb_file__ = '/elsewhere/b.ipynb'")
    assert run_as(kernel, ask) == "/elsewhere"


def test_colab(tmp_path: Path, run_script: Callable[..., subprocess.CompletedProcess[str]]):
    for name, text in COLAB.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    done = run_script(IN_COLAB, COLAB_RELEASE_TAG="release-colab_20260101")
    url = "{'application/vnd.jupyter.widget-view+json': {'colab': {'custom_widget_manager': "
    url += "{'url': 'https://example.org/manager.js'}}}}"
    assert done.stdout.splitlines() == ["Colab True False {}", url, str(tmp_path)], done.stderr


@pytest.mark.parametrize(("kind", "controls"), [("Interactive", "True"), ("Batch", "False")])
def test_kaggle(
    tmp_path: Path,
    run_script: Callable[..., subprocess.CompletedProcess[str]],
    kind: str,
    controls: str,
):
    (tmp_path / "kaggle").mkdir()
    done = run_script(ON_KAGGLE, KAGGLE_KERNEL_RUN_TYPE=kind)
    assert done.stdout.splitlines() == [f"Kaggle {controls} False False", "kaggle"], done.stderr


def test_variables_of_kaggles_api_do_not_make_a_machine_kaggle():
    assert host({"KAGGLE_USERNAME": "me", "KAGGLE_KEY": "k", "KAGGLE_CONFIG_DIR": "/x"}) == (
        "terminal"
    )
    assert host({"JUPYTERHUB_USER": "me"}) == "JupyterHub"


def test_a_script_is_shown_no_widgets():
    code = "from accelnb.jupyter import front_ends as f; print(f.shows_widgets(), f.host())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=30)
    assert done.stdout == "False terminal\n"
