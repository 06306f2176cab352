"""What the statements of a notebook do, also through the functions and classes they call."""

from __future__ import annotations

import ast
import dataclasses
import itertools
import sys
from collections import defaultdict
from collections.abc import Iterable, Sequence, Set

from accelnb.export.analysis.call_kinds import draws_numbers, is_setting, is_write, only_looks
from accelnb.export.analysis.effect import Effect
from accelnb.export.analysis.functions import Function, Functions
from accelnb.export.analysis.imported_names import Imported
from accelnb.export.analysis.known_names import CHANGING, COMPUTING, WRAPPING, WRITING
from accelnb.export.analysis.value_sources import GIVEN, names_in_annotation, roots, thrown_away
from accelnb.export.cells.syntax import (
    BUILTINS,
    FUNCTIONS,
    arguments_of,
    base_name,
    bindings,
    bound_names,
    dotted,
    executed,
    last_part,
    targets_of,
)

OF_SCOPE = frozenset({"globals", "locals"})  # changed, they change what no name shows


class Effects:
    """Finds the effects of statements, also through the functions and classes of the notebook."""

    def __init__(self, nodes: Sequence[ast.stmt], imported: Imported) -> None:
        self._imported = imported
        self._functions = Functions(nodes)
        for _ in range(len(self._functions.all) + 1):  # until it has what those it calls do, too
            self._functions.note_returned()
            is_new = [self._learn(function) for function in self._functions.all]
            if not any(is_new):
                return

    def of(self, node: ast.stmt, *, is_shown: bool) -> Effect:
        """Return what a statement at the top of a cell does.

        Parameters
        ----------
        is_shown
            Whether it is the last of its cell, whose value the notebook shows.
        """
        found = EffectReader(self._functions, self._imported)
        found.read([node], top=node, is_shown=is_shown)
        effect = found.effect()
        effect.change(set(filter(found.is_notebooks, effect.rebinds)), surely=True)
        return effect

    def called(self, function: ast.expr) -> list[Function]:
        """Return the functions of the notebook that a call of an expression may run."""
        return self._functions.called(function, self._imported)

    def _learn(self, function: Function) -> bool:
        """Find what a function does by what is known of others; return whether that is new."""
        found = EffectReader(self._functions, self._imported)
        found.read_function(function.node)
        given, known = {*function.parameters, *found.inner}, function.known
        function.effect = found.effect(function.local)
        function.effect.rebinds |= function.declared
        function.effect.holds = set()
        function.changed_parameters = found.closed(found.done.changes) & given
        function.surely_changed_parameters = found.closed(found.done.surely) & given
        returned = found.closed(found.returned)
        function.returns = returned - function.local | ({GIVEN} if returned & given else set())
        return function.known != known


class EffectReader:
    """Reads statements, and collects what they do."""

    def __init__(self, functions: Functions, imported: Imported) -> None:
        self._functions = functions
        self._imported = imported
        self._returned = functions.returned
        self._bare: set[int] = set()  # calls whose value is thrown away
        self._entered: set[int] = set()  # calls whose value a `with` enters
        self._top: ast.AST | None = None  # the call that is a statement of a cell
        self._is_shown = False
        self._bound: dict[str, set[str]] = defaultdict(set)  # within what is read
        self.done = Effect()  # of any name, also one that is a function's own
        self.returned: set[str] = set()
        self.inner: set[str] = set()  # parameters of functions in functions

    def read(
        self, nodes: Iterable[ast.AST], top: ast.stmt | None = None, *, is_shown: bool = False
    ) -> None:
        nodes = list(executed(nodes))
        self._top, self._is_shown = getattr(top, "value", None), is_shown
        self._bare |= {id(call) for node in nodes for call in thrown_away(node)}
        self._entered |= {id(n.context_expr) for n in nodes if isinstance(n, ast.withitem)}
        for node in nodes:
            self._read_node(node)

    def read_function(self, node: ast.AST) -> None:
        """Read the body of a function, and of the functions in it: they may run when it does."""
        assert isinstance(node, (*FUNCTIONS, ast.Lambda))
        body = node.body if isinstance(node.body, list) else [ast.Return(node.body)]
        if not isinstance(node, ast.Lambda):
            self.read(body)
        else:
            self.read([node.body])
        for part in executed(body):
            if isinstance(part, ast.Return | ast.Yield) and part.value is not None:
                self.returned |= self._roots(part.value)
            elif isinstance(part, (*FUNCTIONS, ast.Lambda)):
                self._read_inner(part)
            if isinstance(part, (*FUNCTIONS, ast.ClassDef)):  # a closure holds what it reads
                self._bound[part.name] |= {n.id for n in ast.walk(part) if isinstance(n, ast.Name)}

    def closed(self, names: Iterable[str]) -> set[str]:
        """Return names with those whose values they are, or are a part of, by what was read."""
        found, waiting = set(names), list(names)
        while waiting:
            new = self._bound.get(waiting.pop(), set()) - found
            found |= new
            waiting += new
        return found

    def effect(self, local: Set[str] = frozenset()) -> Effect:
        """Return what was read does to names of the notebook, and to what all code shares.

        Parameters
        ----------
        local
            The names that are a function's own.
        """
        changed = self.closed(self.done.changes) - local
        surely = self.closed(self.done.surely) - local
        return dataclasses.replace(
            self.done,
            changes=set(filter(self.is_notebooks, changed)),
            surely=set(filter(self.is_notebooks, surely)),
            is_setting=self.done.is_setting or any(map(self._is_shared, surely)),
            settings=set(filter(self._is_shared, surely | self.done.settings)),
        )

    def is_notebooks(self, name: str) -> bool:
        """Return whether a name is one of the notebook's own, and not imported."""
        return name not in self._imported and name not in OF_SCOPE

    def _is_shared(self, name: str) -> bool:
        return not self.is_notebooks(name) and not self._imported.is_drawing(name)

    def _read_inner(self, node: ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda) -> None:
        inside = EffectReader(self._functions, self._imported)
        inside.read_function(node)
        function, done = Function(node), inside.done
        changed, surely = inside.closed(done.changes), inside.closed(done.surely)
        self.inner |= changed & {*function.parameters, *inside.inner}
        self.returned |= inside.closed(inside.returned) - function.local
        done.changes, done.surely = changed - function.local, surely - function.local
        done.rebinds |= function.declared
        done.holds = set()
        self.done.take(done)

    def _read_node(self, node: ast.AST) -> None:
        for target, value in bindings(node):
            self._bind(target, self._roots(value))
            if isinstance(node, ast.For | ast.comprehension):
                self.done.draws_numbers |= "load" in base_name(value).lower()
        if isinstance(node, ast.AugAssign) and isinstance(node.target, ast.Name):
            self._change({node.target.id}, surely=True)
        elif isinstance(node, ast.Attribute | ast.Subscript) and not isinstance(node.ctx, ast.Load):
            self._change_part(node)
        elif isinstance(node, ast.Call):
            self._call(node)
        elif isinstance(node, (*FUNCTIONS, ast.ClassDef)):
            for decorator in node.decorator_list:
                self._decorate(decorator, node)
            if isinstance(node, ast.ClassDef):
                self._derive(node)

    def _roots(self, node: ast.AST | None) -> set[str]:
        return roots(node, self._returned, self._imported)

    def _bind(self, target: ast.expr, held: set[str]) -> None:
        for part in targets_of(target):
            if isinstance(part, ast.Name):
                self._bound[part.id] |= held
                self._hold({part.id}, held)
            else:
                self._hold(self._roots(part), held)

    def _hold(self, names: Iterable[str], held: Iterable[str]) -> None:
        self.done.holds |= set(itertools.product(names, held))

    def _change(self, names: Iterable[str], *, surely: bool) -> None:
        self.done.change(set(names) - {""}, surely=surely)

    def _change_part(self, node: ast.Attribute | ast.Subscript) -> None:
        names = self._roots(node.value)
        is_item = isinstance(node, ast.Subscript) and isinstance(node.slice, ast.Constant)
        if is_item and names <= OF_SCOPE and names:  # globals()["lr"] = 1
            names = names | {str(node.slice.value)}  # type: ignore[union-attr]
        self._change(names, surely=True)

    # ---- calls ----

    def _call(self, call: ast.Call) -> None:
        function, name = call.func, last_part(call)
        is_bare = id(call) in self._bare
        is_name = isinstance(function, ast.Name)
        for known in self._functions.called(function, self._imported):
            self._run(known, call)
        for value in arguments_of(call):
            for known in self._functions.named(dotted(value)):  # `map(f, x)` and such run it
                self.done.take(known.effect)
                if known.changed_parameters:
                    is_sure = bool(known.surely_changed_parameters)
                    self._change(self._given(call) | self._receiver(call), surely=is_sure)
        self.done.writes |= is_write(call)
        self.done.draws_numbers |= draws_numbers(call, self._imported)
        if is_setting(call, self._imported) and (is_bare or "set" in name or "seed" in name):
            self.done.is_setting = True
            self.done.seeds |= "seed" in name
            self.done.settings |= set() if "seed" in name else {base_name(function)}
        elif is_name and name in BUILTINS and name not in self._bound:
            self._call_builtin(call)
        elif is_name and self._functions.defines_function(name):
            return  # what it does is known
        elif not only_looks(call, self._imported):
            self._call_unknown(call, is_bare)

    def _call_builtin(self, call: ast.Call) -> None:
        name, first = last_part(call), call.args[:1]
        if name in ("setattr", "delattr", "next"):
            changed = self._roots(first[0]) if first else set()
            self._change(changed, surely=True)
            self._hold(changed, self._given(call))
        elif name in ("exec", "eval") and first:
            self.done.is_setting |= name == "exec"
            text = first[0].value if isinstance(first[0], ast.Constant) else ""
            self.done.settings |= OF_SCOPE if name == "exec" and not text else set()
            self._read_text(str(text))

    def _read_text(self, text: str) -> None:
        try:
            tree = ast.parse(text)
        except SyntaxError:
            return
        self.read(tree.body)
        self._change(bound_names(tree.body), surely=True)

    def _call_unknown(self, call: ast.Call, is_bare: bool) -> None:
        name, given, receiver = last_part(call), self._given(call), self._receiver(call)
        is_method = isinstance(call.func, ast.Attribute)
        says_change = name in CHANGING or (name.endswith("_") and not name.endswith("__"))
        says_change &= is_method or (call.func is not None and bool(self._imported.path(call.func)))
        is_imported = bool(self._imported.path(call.func))
        changed: set[str] = set()
        if says_change or not is_method:
            changed |= receiver  # a closure or an object that is called may change, too
        if (says_change and is_imported) or (is_bare and name not in WRITING):
            changed |= given
        self.done.draws_numbers |= bool(receiver) and not is_method  # a model that has dropout, say
        if is_bare:
            changed |= receiver
            self.done.is_setting |= not is_write(call) and self._sets_in_library(call)
        self._change(changed, surely=False)
        if says_change:
            self._change(given if is_imported else receiver, surely=True)
        path = self._imported.path(call.func)
        if name in CHANGING and path.count(".") > 1 and path.split(".")[0] not in COMPUTING:
            self._change(receiver, surely=True)  # os.environ.update(...)
        self._hold(changed, given | receiver)

    def _sets_in_library(self, call: ast.Call) -> bool:
        """Return whether a call whose value is not used can only be there for what it does."""
        path = self._imported.path(call.func)
        if not path or self._imported.is_drawing(base_name(call.func)):
            return False
        first = path.partition(".")[0]
        if first in COMPUTING or first in sys.stdlib_module_names:
            return call is self._top and not self._is_shown
        return id(call) not in self._entered

    def _given(self, call: ast.Call) -> set[str]:
        return set().union(*(self._roots(value) for value in arguments_of(call)))

    def _receiver(self, call: ast.Call) -> set[str]:
        """Return the names of the object that a call calls, or whose method it calls."""
        function = call.func
        if isinstance(function, ast.Attribute):
            return self._roots(function.value)
        if isinstance(function, ast.Name):
            is_value = (
                not self._functions.defines(function.id) and function.id not in self._imported
            )
            return {function.id} if is_value else set()
        return self._roots(function)

    def _run(self, known: Function, call: ast.Call) -> None:
        """Take over what a function of the notebook does when it is called."""
        self.done.take(known.effect)
        receiver = call.func.value if isinstance(call.func, ast.Attribute) else call.func
        for value in known.arguments(call, receiver, known.changed_parameters):
            self._change(self._roots(value), surely=False)
        for value in known.arguments(call, receiver, known.surely_changed_parameters):
            self._change(self._roots(value), surely=True)

    # ---- definitions ----

    def _decorate(self, decorator: ast.expr, node: ast.stmt) -> None:
        call = decorator if isinstance(decorator, ast.Call) else None
        function = call.func if call else decorator
        path = self._imported.path(function)
        base = base_name(function)
        named = set() if not call else self._given(call)
        named |= self._annotated(node)
        known = self._functions.called(function, self._imported)
        for one in known:
            self.done.take(one.effect)
            if one.changed_parameters:
                self._change(named, surely=bool(one.surely_changed_parameters))
        is_wrapping = last_part(ast.Call(function, [], [])) in WRAPPING
        is_plain = known and isinstance(function, ast.Name)
        if (
            is_plain
            or is_wrapping
            or path.startswith("accelnb.")
            or self._imported.is_drawing(base)
        ):
            return
        # It may register or patch: what it is given and called on, and its own library.
        self._change(self._roots(function), surely=True)
        self._change(named, surely=False)
        self._hold(self._roots(function) | named, [getattr(node, "name", "")])

    def _annotated(self, node: ast.stmt) -> set[str]:
        """Return the names in the annotations of a function: fastcore's `patch` reads them."""
        if not isinstance(node, FUNCTIONS):
            return set()
        found = set()
        for part in ast.walk(node.args):
            if isinstance(part, ast.arg) and part.annotation is not None:
                found |= names_in_annotation(part.annotation)
        return found

    def _derive(self, node: ast.ClassDef) -> None:
        """Take over what a class does to those that it is derived from."""
        bases = set().union(*(self._roots(base) for base in node.bases))
        self._bound[node.name] |= bases
        self._hold([node.name], bases)
        hooks = self._functions.hooks_of(node)
        for hook in hooks:
            self.done.take(hook.effect)
        if hooks or self._functions.asks_subclasses:
            self._change(filter(self._functions.defines, bases), surely=True)
