"""``accelnb env``: what accelnb runs in, for people and for bug reports."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

import rich_click as click

from accelnb.devices import DEVICES
from accelnb.devices.hardware.machine import inspect_machine
from accelnb.devices.hardware.report_rows import hardware_rows
from accelnb.jupyter.front_ends import host, notebook_folder, shell_here
from accelnb.options.config import ConfigError
from accelnb.options.config_file import FILE, read_file
from accelnb.options.environment import working_folder

if TYPE_CHECKING:
    from rich.console import Group

_PACKAGES = (
    *("ipython", "ipykernel", "jupyter_client", "pyzmq"),
    *("jupyterlab", "notebook", "ipywidgets", "anywidget"),
    *(device.package.partition(".")[0] for device in DEVICES.values() if device.package),
    *("torchao", "accelerate", "transformers", "lightning-fabric"),
)
# Only these are shown: others may hold secrets, and do not matter here.
_VARIABLE = re.compile(
    "|".join(device.variable for device in DEVICES.values() if device.variable)
    + r"|ROCR_VISIBLE_DEVICES|CUDA_DEVICE_ORDER|CUDA_LAUNCH_BLOCKING"
    r"|OMP_NUM_THREADS|MKL_NUM_THREADS|MASTER_(ADDR|PORT)|(LOCAL_)?RANK|(LOCAL_)?WORLD_SIZE"
    r"|ACCELNB_\w+|(NCCL|GLOO|TORCH|PYTORCH|TPU|PJRT|XLA)_\w+"
    r"|KAGGLE_KERNEL_RUN_TYPE|COLAB_RELEASE_TAG"
)
_SECRET = re.compile(r"TOKEN|KEY|SECRET|PASSW|CREDENTIAL|AUTH")
_USER_IN_URL = re.compile(r"//[^/@\s]+@")
_LONGEST = 200
# Notebooks right-align and stripe tables unless each cell says otherwise.
_CELL = "text-align:left;vertical-align:top;padding:1px 16px 1px 0;background:none"


@click.command()
@click.option("--plain", is_flag=True, help="As text without colour, to paste in a bug report.")
def command(plain: bool) -> None:
    """Show versions, hardware and settings, and what to put right.

    Of the environment it shows only variables that matter here, and no secrets.

    \b
    Examples:
      accelnb env
      accelnb env --plain > env.txt
    """
    show(plain)


@dataclass(frozen=True)
class Report:
    """Facts in groups, and what is wrong.

    Attributes
    ----------
    groups : dict
        Title to pairs of a label and a text.
    notes : tuple of str
        What is wrong, each with what to do.
    """

    groups: dict[str, list[tuple[str, str]]]
    notes: tuple[str, ...]

    def plain(self) -> str:
        """Return it as text to paste in a bug report."""
        lines = []
        for title, rows in self.groups.items():
            lines.append(f"{title}:")
            width = max((len(label) for label, _ in rows), default=0)
            lines += [f"  {label:<{width}}  {text}" for label, text in rows]
        lines += ["to put right:", *(f"  - {note}" for note in self.notes)] if self.notes else []
        return "\n".join(lines)

    def rich(self) -> Group:
        """Return it for rich's ``print``."""
        from rich.console import Group
        from rich.padding import Padding
        from rich.table import Table
        from rich.text import Text

        parts: list[Any] = []
        width = max(len(label) for rows in self.groups.values() for label, _ in rows)
        for title, rows in self.groups.items():
            table = Table.grid(padding=(0, 2))
            table.add_column(style="dim", min_width=width, no_wrap=True)
            table.add_column(overflow="fold")
            for label, text in rows:
                table.add_row(label, Text(text))
            parts += [Text(title.capitalize(), style="bold"), Padding(table, (0, 0, 1, 2))]
        for note in self.notes:
            parts.append(Text.assemble(("! ", "bold yellow"), note))
        return Group(*parts)

    def html(self) -> str:
        """Return it as a table whose long texts wrap in a narrow notebook."""
        rows = []
        for title, facts in self.groups.items():
            rows.append(
                f'<tr style="background:none"><th colspan="2" style="{_CELL};padding-top:10px">'
                f"{title.capitalize()}</th></tr>"
            )
            rows += [
                f'<tr style="background:none"><td style="{_CELL};opacity:0.7;white-space:nowrap">'
                f'{escape(label)}</td><td style="{_CELL};overflow-wrap:anywhere">{escape(text)}'
                "</td></tr>"
                for label, text in facts
            ]
        notes = "".join(f"<div><b>To put right:</b> {escape(note)}</div>" for note in self.notes)
        return f'<table style="margin:0 0 8px">{"".join(rows)}</table>{notes}'


def report(folder: Path | None = None) -> Report:
    """Look at everything that a question about accelnb begins with.

    Parameters
    ----------
    folder
        Where ``accelnb.yaml`` is looked for; by default the notebook's folder, or the working
        directory.

    Examples
    --------
    >>> from accelnb.cli.env import report
    >>> list(report().groups)
    ['versions', 'hardware', 'settings']
    """
    if folder is None:
        shell = shell_here()
        folder = notebook_folder(shell) if shell is not None else Path(working_folder() or ".")
    machine = inspect_machine()
    config, wrong = _config_in_force(folder)
    groups = {
        "versions": list(_versions(machine.torch.describe() if machine.torch else "not installed")),
        "hardware": hardware_rows(machine),
        "settings": [("host", host()), (FILE, config), *variables(os.environ)],
    }
    shortened = {
        title: [(label, _without_home(text)) for label, text in rows]
        for title, rows in groups.items()
    }
    return Report(shortened, tuple(_without_home(note) for note in (*machine.notes, *wrong)))


def show(plain: bool = False) -> None:
    """Print the report: as a table, or as text to paste in a bug report."""
    found = report()
    if plain:
        print(found.plain())
        return
    if not hasattr(shell_here(), "kernel"):
        from rich.console import Console

        Console().print(found.rich())
        return
    from IPython.display import publish_display_data

    publish_display_data({"text/plain": found.plain(), "text/html": found.html()})


def variables(environ: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """Yield the environment variables that matter here, without secrets.

    Examples
    --------
    >>> from accelnb.cli.env import variables
    >>> list(variables({"NCCL_DEBUG": "INFO", "AWS_SECRET": "...", "TORCH_TOKEN": "..."}))
    [('NCCL_DEBUG', 'INFO')]
    """
    for name, value in sorted(environ.items()):
        if _VARIABLE.fullmatch(name) and not _SECRET.search(name):
            value = _USER_IN_URL.sub("//***@", value)
            yield name, value if len(value) <= _LONGEST else f"{value[:_LONGEST]}…"


def _versions(torch: str) -> Iterator[tuple[str, str]]:
    yield "accelnb", _version("accelnb") or "a clone that is not installed"
    yield "python", f"{platform.python_version()} ({platform.python_implementation()})"
    yield "torch", torch
    for package in _PACKAGES:
        if version := _version(package):
            yield package, version
    yield "system", f"{_system_name()}, {platform.machine()}"


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _system_name() -> str:
    kernel = f"{platform.system()} {platform.release()}"
    try:
        return f"{platform.freedesktop_os_release()['PRETTY_NAME']} ({kernel})"
    except (OSError, KeyError):
        return kernel


def _config_in_force(folder: Path) -> tuple[str, tuple[str, ...]]:
    """Return what to say of ``accelnb.yaml``, and what is wrong with it."""
    path = folder / FILE
    if not path.exists():
        return f"none in {folder}", ()
    try:
        values = read_file(path)
    except ConfigError as error:
        return f"{path}, which is wrong", (str(error),)
    said = ", ".join(f"{name}={value}" for name, value in values.items())
    return f"{path}: {said or 'no options'}", ()


def _without_home(text: str) -> str:
    home = os.path.expanduser("~").rstrip("/")
    return re.sub(rf"{re.escape(home)}(?=[/\s:,]|$)", "~", text) if home else text
