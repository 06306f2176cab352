"""In which front end the notebook is open, and what differs there.

The one module that knows Colab, Kaggle, VS Code and Jupyter apart.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import os
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from accelnb.options.config import ConfigError
from accelnb.options.environment import working_folder

VIEW = "ACCELNB_VIEW"  # "plain" or "live": the user's own word on whether widgets are shown

_KAGGLE_RUN = "KAGGLE_KERNEL_RUN_TYPE"  # Kaggle's own kernels have it, its API's users do not
_KAGGLE_FOLDER = Path("/kaggle/working")  # the one folder there that is kept
_WIDGET = "application/vnd.jupyter.widget-view+json"
_SUBSHELLS_SINCE = {"jupyterlab": (4, 4), "notebook": (7, 4)}

_prepared = False


def host(environ: Mapping[str, str] = os.environ) -> str:
    """Return what this process belongs to.

    Returns
    -------
    host : str
        ``Colab``, ``Kaggle``, ``VS Code``, ``JupyterHub``, ``Jupyter`` (a notebook of any other
        kind) or ``terminal``.

    Examples
    --------
    >>> from accelnb.jupyter.front_ends import host
    >>> host({"KAGGLE_KERNEL_RUN_TYPE": "Interactive"})
    'Kaggle'
    >>> host({"KAGGLE_USERNAME": "me", "KAGGLE_KEY": "..."})  # only a user of Kaggle's API
    'terminal'
    """
    cell = str(_request_metadata().get("cellId", ""))
    if cell.startswith("vscode"):  # also of a kernel that runs on Colab
        return "VS Code"
    if _has_colab_kernel() or "COLAB_RELEASE_TAG" in environ:
        return "Colab"
    if environ.get(_KAGGLE_RUN):
        return "Kaggle"
    if "VSCODE_PID" in environ and not cell:
        return "VS Code"
    if "JUPYTERHUB_USER" in environ or "JUPYTERHUB_API_URL" in environ:
        return "JupyterHub"
    return "Jupyter" if _kernel() is not None else "terminal"


def shows_widgets() -> bool:
    """Tell whether a front end that shows widgets of any kind asked for the cell that runs now.

    The request itself says so: JupyterLab, Notebook 7, VS Code and Colab name their cell in it;
    nbclient, papermill, nbconvert and the consoles do not. Kaggle shows the controls of ipywidgets
    only: an extension such as anywidget's must be there before its server starts.
    ``ACCELNB_VIEW=plain`` and ``ACCELNB_VIEW=live`` go before all that. Ask at the start of a
    cell, in the cell's thread.

    Raises
    ------
    ConfigError
        ``ACCELNB_VIEW`` is something else.

    Examples
    --------
    >>> from accelnb.jupyter.front_ends import shows_widgets
    >>> shows_widgets()  # not in a notebook
    False
    """
    chosen = os.environ.get(VIEW, "")
    if chosen not in ("", "plain", "live"):
        raise ConfigError(f"{VIEW}={chosen}: choose plain or live, or unset it")
    if chosen == "plain" or importlib.util.find_spec("anywidget") is None:
        return False
    if chosen == "live":
        return _kernel() is not None
    return shows_controls() and host() != "Kaggle"


def shows_controls() -> bool:
    """Tell whether the front end that asked for this cell shows the controls of ipywidgets.

    Examples
    --------
    >>> from accelnb.jupyter.front_ends import shows_controls
    >>> shows_controls()  # not in a notebook
    False
    """
    if _kernel() is None or importlib.util.find_spec("ipywidgets") is None:
        return False
    if host() == "Kaggle":  # "Batch" is a notebook that "Save version" runs
        return os.environ[_KAGGLE_RUN] == "Interactive"
    return _has_colab_kernel() or "cellId" in _request_metadata()


def prepare_widgets() -> None:
    """Do what the front end needs once before the first widget: Colab loads them on demand."""
    global _prepared
    if _prepared or host() != "Colab" or not _has_colab_kernel():
        return  # also for VS Code on a kernel of Colab's
    output = importlib.import_module("google.colab.output")
    output.enable_custom_widget_manager()
    _prepared = True


def widget_metadata() -> dict[str, Any]:
    """Return the metadata that a display of a widget needs: on Colab, who loads it.

    Colab adds it to what ``display`` sends, but not to an update of a display.

    Examples
    --------
    >>> from accelnb.jupyter.front_ends import widget_metadata
    >>> widget_metadata()  # not on Colab
    {}
    """
    widgets = sys.modules.get("google.colab.output._widgets")
    url = getattr(widgets, "_installed_url", None)
    return {_WIDGET: {"colab": {"custom_widget_manager": {"url": url}}}} if url else {}


def has_subshells() -> bool:
    """Tell whether a widget's message reaches the kernel while a cell runs.

    The kernel must have subshells (ipykernel 7) and the front end must use them (JupyterLab from
    4.4, Notebook from 7.4). A front end of another environment than the kernel's is taken to be
    new enough.
    """
    kernel = _kernel()
    if kernel is None or not getattr(kernel, "_supports_kernel_subshells", False):
        return False
    if host() not in ("Jupyter", "JupyterHub"):
        return False
    return all(_is_at_least(name, least) for name, least in _SUBSHELLS_SINCE.items())


def notebook_folder(shell: Any) -> Path:
    """Return the folder of the notebook, where ``accelnb.yaml`` belongs.

    Parameters
    ----------
    shell
        The notebook's shell.

    Returns
    -------
    folder : Path
        The notebook's own where the front end tells it. On Colab the working directory, for the
        notebook itself is on Drive (after ``%cd /content/drive/MyDrive/project`` the file is kept
        there). On Kaggle ``/kaggle/working``, the one folder that is kept. In other notebooks the
        folder that the kernel started in, in a terminal the working directory.
    """
    if file := shell.user_ns.get("__vsc_ipynb_file__"):
        return Path(file).parent
    where = host()
    if where == "Colab":
        return Path(working_folder() or ".")
    if where == "Kaggle" and _KAGGLE_FOLDER.is_dir():
        return _KAGGLE_FOLDER
    if session := os.environ.get("JPY_SESSION_NAME"):  # of jupyter_server: the notebook's path
        folder = Path(session).parent
        if folder.is_absolute() and folder.is_dir():  # it may have been moved since
            return folder
    if getattr(shell, "kernel", None) is not None:
        return Path(shell.starting_dir)
    return Path(working_folder() or ".")


def shell_here() -> Any | None:
    """Return IPython's shell in this process, None in a script."""
    ipython = sys.modules.get("IPython")
    return ipython.get_ipython() if ipython is not None else None


def _has_colab_kernel() -> bool:
    return type(_kernel()).__module__.startswith("google.colab")


def _kernel() -> Any | None:
    """Return the Jupyter kernel of this process, None in a terminal or a script."""
    return getattr(shell_here(), "kernel", None)


def _request_metadata() -> Mapping[str, Any]:
    """Return the metadata of the request that runs now."""
    kernel = _kernel()
    return (kernel.get_parent("shell") or {}).get("metadata", {}) if kernel is not None else {}


def _is_at_least(package: str, least: tuple[int, int]) -> bool:
    try:
        version = importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return True
    found = re.match(r"(\d+)\.(\d+)", version)
    return found is None or (int(found[1]), int(found[2])) >= least
