"""From a notebook to a script that ``python``, ``torchrun`` or a cluster launches, and back."""

from __future__ import annotations

from accelnb.export.cells.notebook_file import ExportError as ExportError
from accelnb.export.from_script.script_to_notebook import import_script as import_script
from accelnb.export.live_notebook import live as live
from accelnb.export.notebook_to_script import Exported as Exported
from accelnb.export.notebook_to_script import export_notebook as export_notebook
