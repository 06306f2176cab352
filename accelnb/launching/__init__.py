"""`accelnb launch`: a script, module or notebook on several processes, here or on more machines."""

from __future__ import annotations

from accelnb.launching.launch import launch as launch
from accelnb.launching.target import Target as Target
from accelnb.launching.target import find_target as find_target
