"""The imports of a script: what the kept code needs, in the order that import sorters have."""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence

from accelnb.export.analysis.imported_names import aliases
from accelnb.export.script_text.placement import Places
from accelnb.export.script_text.source_text import WIDTH
from accelnb.export.steps.program import Step
from accelnb.export.steps.selection import Selection

# What our own parts of a script import, and the text by which these are known.
_OF_OUR_PARTS = (
    ("import os", "os."),
    ("import argparse", "argparse."),
    ("import itertools", "itertools."),
    ("from torch.distributed.rendezvous import rendezvous", "rendezvous("),
    ("import torch", "torch."),
    ("import torch.distributed as dist", "dist."),
    ("from typing import Any", "Any]"),
    ("from torch.distributed.device_mesh import init_device_mesh", "init_device_mesh("),
)


def import_block(selection: Selection, places: Places, written: str) -> str:
    """Return the imports that a script needs, below the settings that these see.

    Parameters
    ----------
    written
        The rest of the script.
    """
    found: list[tuple[str, str]] = []
    others: list[str] = []
    for step in places.imports:
        if not step.statement.is_import:
            others.append(step.statement.commented())
            continue
        for text, name in aliases(step.statement.node):
            is_used = name in selection.used[step] and re.search(rf"\b{name}\b", written)
            if name == "*" or is_used or _is_for_effect(text, step):
                found.append((text, step.statement.after))
    for module in sorted(selection.program.imports):
        if f"{module}." in written:
            found.append((f"import {module}", ""))
    for text, sign in _OF_OUR_PARTS:
        if sign in written:
            found.append((text, ""))
    again = _for_early(places)
    found = [entry for entry in found if entry[0] not in again]
    stands_in = [text for text, _ in found if text.startswith("import accelnb.compat")]
    found = [entry for entry in found if entry[0] not in stands_in]
    first = "\n".join(f"{text}  # before all others: it stands in" for text in stands_in[:1])
    every = (_early(places), first, imports_text(found), *others)
    return "\n\n".join(part for part in every if part)


def _for_early(places: Places) -> list[str]:
    """Return the imports that the settings above all other imports need."""
    read = {name for step in places.early for name in step.reads}
    imported = (pair for step in places.imports for pair in aliases(step.statement.node))
    return [text for text, name in imported if name in read]


def _early(places: Places) -> str:
    """Return the settings that the imports below them see."""
    lines = [imports_text([(text, "") for text in _for_early(places)]), ""]
    lines += [step.statement.commented() for step in places.early]
    return "\n".join(lines) if places.early else ""


def _is_for_effect(text: str, step: Step) -> bool:
    """Return whether an import stays although nothing reads its name."""
    if ".display import" in text:
        return False
    return step.on_ranks or text.startswith(("import accelnb.compat", "from __future__"))


def imports_text(statements: Sequence[tuple[str, str]]) -> str:
    """Put imports in order: of the standard library, others, those of this folder.

    Parameters
    ----------
    statements
        Each import of one name, as (text, comment behind it).

    Examples
    --------
    >>> from accelnb.export.script_text.import_block import imports_text
    >>> print(imports_text([("from torch import nn", ""), ("import os", ""),
    ...                     ("from torch import optim", "")]))
    import os
    <BLANKLINE>
    from torch import nn, optim
    """
    plain: dict[str, str] = {}
    names: dict[str, dict[str, str]] = {}
    for text, behind in statements:
        if text.startswith("import "):
            plain[text] = plain.get(text) or behind
        else:
            module, _, name = text.removeprefix("from ").partition(" import ")
            of_module = names.setdefault(module, {})
            of_module[name] = of_module.get(name) or behind
    lines: dict[int, list[str]] = {}
    for text, behind in sorted(plain.items()):
        lines.setdefault(_group(text.split()[1]), []).append(_with(text, behind))
    for module in sorted(names, key=str.lower):
        of_module = names[module]
        if "*" in of_module:  # it stands alone, above what is imported by name
            star = _with(f"from {module} import *", of_module.pop("*"))
            lines.setdefault(_group(module), []).append(star)
        if of_module:
            lines.setdefault(_group(module), []).append(_from(module, of_module))
    return "\n\n".join("\n".join(lines[group]) for group in sorted(lines))


def _group(module: str) -> int:
    first = module.partition(".")[0]
    if first == "__future__":
        return 0
    if not first:
        return 3
    return 1 if first in sys.stdlib_module_names else 2


def _from(module: str, names: dict[str, str]) -> str:
    ordered = sorted(names, key=lambda name: (_kind(name), name.lower(), name))
    behind = " ".join(dict.fromkeys(text for text in names.values() if text))
    line = f"from {module} import {', '.join(ordered)}"
    if len(line) > WIDTH:
        listed = "".join(f"    {name},\n" for name in ordered)
        line = f"from {module} import (\n{listed})"
    return _with(line, behind)


def _kind(name: str) -> int:
    """Constants come first, then classes, then the rest, as import sorters have it."""
    first = name.split()[0]
    return 0 if first.isupper() and len(first) > 1 else 1 if first[:1].isupper() else 2


def _with(text: str, behind: str) -> str:
    return f"{text}  {behind}" if behind else text
