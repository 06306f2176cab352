"""`accelnb launch`: a script, module or notebook on several processes, here or on more machines."""

from __future__ import annotations

from accelnb.cli.launching.launch import launch as launch
from accelnb.cli.launching.target import Target as Target
from accelnb.cli.launching.target import find_target as find_target
