"""Tab, Shift-Tab and `?` for code of the ranks: rank 0's names, then the notebook's own."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any

from IPython.core import page
from IPython.core.completer import Completion, provisionalcompleter
from IPython.core.interactiveshell import InteractiveShell

from accelnb.engine.wire.queries import Query
from accelnb.notebook.auto_mode import AutoCells
from accelnb.notebook.session import Session
from accelnb.options.magic_line import split_options

# A rank that has not answered after this long is not waited for.
_LONGEST = 0.1

_CELL = re.compile(r"\s*%%distributed\b[^\n]*\n")
_LINE = re.compile(r"\s*(?:[\w, ]+=\s*)?%distributed\s+")
_HELP = {"pinfo": 0, "pinfo2": 1}  # what IPython makes of ? and ??, and how much each shows


class Assist:
    """Completes and inspects names of the ranks while no cell runs there.

    It stands before what every front end's requests come to: the completer's `completions` and
    the kernel's `do_inspect`.
    """

    def __init__(self, shell: InteractiveShell, session: Session, auto: AutoCells) -> None:
        self._shell = shell
        self._session = session
        self._auto = auto
        self._kernel: Any = getattr(shell, "kernel", None)  # there is none in a terminal
        self._completer: Any = shell.Completer
        # What loads a magic when it is first asked for is not the magic.
        self._help: dict[str, Any] = {name: shell.find_line_magic(name) for name in _HELP}

    def install(self) -> None:
        self._own_completions: Callable[..., Any] = self._completer.completions
        self._completer.completions = self._completions
        if self._kernel is not None:
            self._own_inspect: Callable[..., Any] = self._kernel.do_inspect
            self._kernel.do_inspect = self._inspect
        for name in _HELP:
            self._shell.register_magic_function(self._helper(name), "line", name)  # type: ignore[arg-type]

    def remove(self) -> None:
        self._completer.completions = self._own_completions
        if self._kernel is not None:
            self._kernel.do_inspect = self._own_inspect
        self._shell.magics_manager.magics["line"].update(self._help)

    def _completions(self, text: str, offset: int) -> Iterator[Completion]:
        question = self._ask_at(text, offset, "complete")
        with provisionalcompleter():
            own = list(self._own_completions(text, offset))  # while the rank looks
            found = question.answer(_LONGEST) if question is not None else {}
            if not found.get("matches"):
                return iter(own)
            start = offset - found["length"]
            of_rank = [
                Completion(start, offset, name, type=kind, _origin="accelnb")
                for name, kind in found["matches"]
            ]
        names = {completion.text for completion in of_rank}
        return iter([*of_rank, *(c for c in own if _written(c, text, start) not in names)])

    def _inspect(
        self,
        code: str,
        cursor_pos: int,
        detail_level: int = 0,
        omit_sections: Any = (),
    ) -> Any:
        question = self._ask_at(
            code,
            cursor_pos,
            "inspect",
            detail_level=detail_level,
            omit_sections=sorted(omit_sections),
        )
        found = question.answer(_LONGEST) if question is not None else {}
        if "data" not in found:
            return self._own_inspect(code, cursor_pos, detail_level, omit_sections)
        return {"status": "ok", "found": True, "data": found["data"], "metadata": {}}

    def _helper(self, name: str) -> Callable[[str], None]:
        def helper(line: str) -> None:
            question = None
            if self._auto.on:
                settings = {"detail_level": _HELP[name], "omit_sections": []}
                question = self._ask("inspect", line, len(line), **settings)
            found = question.answer(_LONGEST) if question is not None else {}
            if "data" in found:
                page.page(found["data"])
            else:
                self._help[name](line)

        helper.__doc__ = self._help[name].__doc__
        return helper

    def _ask_at(self, text: str, cursor: int, what: str, **settings: Any) -> Query | None:
        """Ask rank 0 about a place in a cell; None if it is not code for the ranks."""
        at = self._code_at(text, cursor)
        if at is None:
            return None
        return self._ask(what, text[at:], cursor - at, **settings)

    def _ask(self, what: str, code: str, cursor: int, **settings: Any) -> Query | None:
        group = self._session.group
        if group is None:
            return None
        return group.ask({"what": what, "code": code, "cursor": cursor} | settings)

    def _code_at(self, text: str, cursor: int) -> int | None:
        """Return where the code for the ranks begins that `cursor` is in."""
        if cell := _CELL.match(text):
            at = cell.end()
        elif (auto := self._auto.code_at(text)) is not None:
            at = auto
        else:
            line = text[text.rfind("\n", 0, cursor) + 1 : cursor]
            magic = _LINE.match(line)
            if magic is None:
                return None
            _, expression = split_options(line[magic.end() :])
            return cursor - len(expression) if expression else None
        return at if cursor >= at else None


def _written(completion: Completion, text: str, start: int) -> str:
    """Return what a completion would write from `start` on."""
    if completion.start > start:
        return text[start : completion.start] + completion.text
    return completion.text.removeprefix(text[completion.start : start])
