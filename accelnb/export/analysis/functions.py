"""The functions and classes of a notebook: which of them a call runs, and with what."""

from __future__ import annotations

import ast
from collections import defaultdict
from collections.abc import Collection, Iterator, Sequence

from accelnb.export.analysis.effect import Effect
from accelnb.export.analysis.imported_names import Imported
from accelnb.export.analysis.value_sources import roots
from accelnb.export.cells.syntax import (
    BUILTINS,
    FUNCTIONS,
    base_name,
    bindings,
    bound_names,
    dotted,
    targets_of,
)
from accelnb.jupyter.cell_names import parameters_of

_MAKERS = ("__init__", "__new__", "__post_init__")
_OF_INSTANCE = (".__call__", ".forward", ".__enter__", ".__exit__")


class Function:
    """A function, and what it does to what it did not make itself.

    Attributes
    ----------
    parameters, local, declared
        Its parameters in order; all names that are its own; the names that it declares global.
    changed_parameters, surely_changed_parameters : set of str
        What of what it is given it may change, and what it changes by its text.
    returns : set of str
        Names of the notebook whose values it may return; `GIVEN` for what it is given.
    effect : Effect
        What it does when it is called.
    """

    def __init__(self, node: ast.AST, *, is_method: bool = False, makes: bool = False) -> None:
        assert isinstance(node, (*FUNCTIONS, ast.Lambda))
        self.node = node
        self.is_method = is_method
        self._makes = makes  # it is called by the name of its class, which gives it no object
        body = node.body if isinstance(node.body, list) else [ast.Expr(node.body)]
        self.parameters = [argument.arg for argument in parameters_of(node.args)]
        self._variable = [a.arg for a in (node.args.vararg, node.args.kwarg) if a is not None]
        declared = {n for g in ast.walk(node) if isinstance(g, ast.Global) for n in g.names}
        nonlocal_names = {n for g in ast.walk(node) if isinstance(g, ast.Nonlocal) for n in g.names}
        self.declared = frozenset(declared)
        self.local = frozenset({*self.parameters, *bound_names(body)} - declared - nonlocal_names)
        self.changed_parameters: set[str] = set()
        self.surely_changed_parameters: set[str] = set()
        self.returns: set[str] = set()
        self.effect = Effect()

    @property
    def known(self) -> tuple[object, ...]:
        """All that was found of it, to be compared."""
        given = (self.changed_parameters, self.surely_changed_parameters)
        return (*given, self.returns, self.effect)

    def arguments(
        self, call: ast.Call, receiver: ast.expr, names: Collection[str]
    ) -> Iterator[ast.expr]:
        """Yield the values that a call gives to some of the parameters."""
        positional = list(call.args)
        if self.is_method:
            positional.insert(0, ast.Constant(None) if self._makes else receiver)
        is_open = any(isinstance(value, ast.Starred) for value in call.args)
        is_open |= any(keyword.arg is None for keyword in call.keywords)
        is_open |= any(name in names for name in self._variable)
        if is_open and names:
            yield from [*positional, *(keyword.value for keyword in call.keywords)]
            return
        given = dict(zip(self.parameters, positional, strict=False))
        given |= {keyword.arg: keyword.value for keyword in call.keywords if keyword.arg}
        yield from (given[name] for name in names if name in given)


class Functions:
    """All functions that the statements of a notebook define, by the names that call them.

    Attributes
    ----------
    all : list of Function
        Each of them, methods too.
    asks_subclasses : bool
        Whether a class is asked for its subclasses, so that to derive one changes it.
    returned : dict
        The names of the notebook whose values a function returns, by its name; with `GIVEN`
        among them if it may return what it is given.
    """

    def __init__(self, nodes: Sequence[ast.stmt]) -> None:
        self.all: list[Function] = []
        self.returned: dict[str, frozenset[str]] = {}
        self._by_name: dict[str, list[Function]] = defaultdict(list)  # a method by `.name`
        self._classes: dict[str, list[ast.ClassDef]] = defaultdict(list)
        self._stands_for: dict[str, set[str]] = defaultdict(set)
        every = [part for node in nodes for part in ast.walk(node)]
        self.asks_subclasses = any(getattr(n, "attr", "") == "__subclasses__" for n in every)
        for node in nodes:
            self._add(node)
        self._bound: set[str] = set()
        for part in every:
            for target, value in bindings(part):
                self._bound |= {getattr(one, "id", "") for one in targets_of(target)}
                self._add_alias(target, value)

    def note_returned(self) -> None:
        """Bring `returned` up to date with what is known of each function."""
        self.returned = {
            name: frozenset().union(*(function.returns for function in functions))
            for name, functions in self._by_name.items()
        }

    def named(self, name: str) -> list[Function]:
        """Return the functions that the call of a name may run; of a class, what makes one."""
        if not name or name.startswith("."):
            return []
        found = list(self._by_name.get(name, ()))
        for node in self._with_bases(name):
            found += [f for maker in _MAKERS for f in self._by_name.get(f"{node.name}.{maker}", ())]
        for other in self._stands_for.get(name, ()):
            found += [f for f in self._by_name.get(other, ()) if f not in found]
        return found or ([_NOTHING] if name in self._classes else [])

    def defines(self, name: str) -> bool:
        """Return whether a name is that of a function or a class."""
        return name in self._by_name or name in self._classes

    def defines_function(self, name: str) -> bool:
        """Return whether a name is that of a function, and of nothing else."""
        return name in self._by_name and name not in self._classes

    def called(self, function: ast.expr, imported: Imported) -> list[Function]:
        """Return the functions of the notebook that a call of an expression may run."""
        if isinstance(function, ast.Name):
            if function.id in imported:
                return []
            name = function.id
            if name in BUILTINS and not self.defines(name) and name not in self._bound:
                return []
            instances = (f for way in _OF_INSTANCE for f in self._by_name.get(way, ()))
            return self.named(name) or list(instances)
        if isinstance(function, ast.Attribute):
            is_librarys = base_name(function) in imported and imported.path(function)
            return [] if is_librarys else list(self._by_name.get(f".{function.attr}", ()))
        return self.called(function.func, imported) if isinstance(function, ast.Call) else []

    def hooks_of(self, node: ast.ClassDef) -> list[Function]:
        """Return what runs when a class is derived: of its bases, and of its metaclass."""
        found: list[Function] = []
        related = [c for base in node.bases for c in self._with_bases(dotted(base))]
        for one in related:
            found += self._by_name.get(f"{one.name}.__init_subclass__", ())
        for one in (node, *related):
            for keyword in one.keywords:
                if keyword.arg == "metaclass":
                    found += [f for f in self.named(dotted(keyword.value)) if f is not _NOTHING]
        return found

    def _add(self, node: ast.stmt) -> None:
        if isinstance(node, FUNCTIONS):
            self._append(Function(node), node.name)
        elif isinstance(node, ast.ClassDef):
            self._classes[node.name].append(node)
            for part in node.body:
                if isinstance(part, FUNCTIONS):
                    self._add_method(node, part)
        elif isinstance(node, ast.If | ast.Try | ast.With):
            for part in ast.iter_child_nodes(node):
                if isinstance(part, ast.stmt):
                    self._add(part)

    def _add_method(self, of: ast.ClassDef, node: ast.FunctionDef | ast.AsyncFunctionDef) -> None:
        is_static = any(dotted(d) == "staticmethod" for d in node.decorator_list)
        makes = node.name in _MAKERS
        method = Function(node, is_method=not is_static, makes=makes)
        self._append(method, f"{of.name}.{node.name}", *(() if makes else (f".{node.name}",)))

    def _add_alias(self, target: ast.expr, value: ast.expr) -> None:
        if not isinstance(target, ast.Name):
            return
        if isinstance(value, ast.Lambda):
            self._append(Function(value), target.id)
            return
        is_part = isinstance(value, ast.Call) and dotted(value.func).endswith("partial")
        if isinstance(value, ast.Name) or is_part:
            self._stands_for[target.id] |= roots(value, {}) & self._by_name.keys()

    def _append(self, function: Function, *names: str) -> None:
        self.all.append(function)
        for name in names:
            self._by_name[name].append(function)

    def _with_bases(self, name: str) -> list[ast.ClassDef]:
        found: list[ast.ClassDef] = []
        waiting = [name]
        while waiting:
            for node in self._classes.get(waiting.pop(), ()):
                if node not in found:
                    found.append(node)
                    waiting += [dotted(base) for base in node.bases]
        return found


_NOTHING = Function(ast.parse("lambda: None", mode="eval").body)  # what makes a plain object
