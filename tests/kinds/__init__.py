"""Kinds of objects in notebooks: what makes some, and what they are asked, here and on a rank."""

from __future__ import annotations

from kinds.classes import CLASSES
from kinds.libraries import LIBRARIES
from kinds.objects import OBJECTS

KINDS = CLASSES | OBJECTS | LIBRARIES
