"""From a notebook to a script that ``python``, ``torchrun`` or a cluster launches, and back."""

from __future__ import annotations

from accelnb.export.live_notebook import live as live
from accelnb.export.notebook import Exported as Exported
from accelnb.export.notebook import export_notebook as export_notebook
from accelnb.export.notebook_file import ExportError as ExportError
from accelnb.export.reverse import import_script as import_script
