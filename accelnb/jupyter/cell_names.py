"""Which names of the notebook a cell needs, from its code alone."""

from __future__ import annotations
import __future__

import ast
import re
import types
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

# What a cell can import from __future__ that holds for the cells after it.
FUTURE_FLAGS = __future__.annotations.compiler_flag
_IDENTIFIER = re.compile(r"[A-Za-z_]\w*")
_EVALUATE = frozenset({"eval", "exec", "query"})  # functions and methods that read a text as code
_FORMAT = frozenset({"format", "format_map"})
_FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)
_COMPREHENSIONS = (ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)


@dataclass(frozen=True)
class CellNames:
    """The names that a cell reads before it has surely bound them, and those it binds.

    `at_once` are those of them that it reads when it runs itself, and `unbound` those of these
    that nothing in the cell binds before, on no way through it; the others are read `later`, by
    the functions that it defines, when they are called. `perhaps` are names that appear in a
    text only, as of a magic or a query, `surely` those that are bound on every way through the
    cell. `imports` says where an import statement found what it bound: name -> (module,
    attribute); for ``from module import *``, the name is ``*``.
    """

    needed: frozenset[str] = frozenset()
    at_once: frozenset[str] = frozenset()
    unbound: frozenset[str] = frozenset()
    perhaps: frozenset[str] = frozenset()
    bound: frozenset[str] = frozenset()
    surely: frozenset[str] = frozenset()
    imports: tuple[tuple[str, str, str], ...] = ()

    @property
    def later(self) -> frozenset[str]:
        return self.needed - self.at_once


def analyse(code: str, future: int = 0) -> CellNames:
    """Find the names of a transformed cell.

    Parameters
    ----------
    future
        The compiler flags that cells before it have turned on, of `FUTURE_FLAGS`.

    Raises
    ------
    SyntaxError
        The code does not compile.

    Examples
    --------
    >>> names = analyse("model = Net()\\nfor x in data:\\n    loss = model(x)")
    >>> sorted(names.needed), sorted(names.bound)
    (['Net', 'data'], ['loss', 'model', 'x'])
    """
    flags = ast.PyCF_ALLOW_TOP_LEVEL_AWAIT | future
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SyntaxWarning)  # the ranks say it when they compile it
        tree = compile(code, "<cell>", "exec", flags | ast.PyCF_ONLY_AST, dont_inherit=True)
        # `return` outside of a function, and more, is an error for the compiler only.
        compiled = compile(tree, "<cell>", "exec", flags, dont_inherit=True)
    reader = _FutureReader() if compiled.co_flags & FUTURE_FLAGS else _Reader()
    try:
        reader.read(tree.body)
    except RecursionError:  # of a sum of a thousand terms, or as many branches
        reader = type(reader)()
        reader.read_in_any_order(tree)
    later = {name for names in reader.later for name in names if name not in reader.surely}
    return CellNames(
        frozenset(reader.needed | later),
        frozenset(reader.needed),
        frozenset(reader.unbound),
        frozenset(reader.perhaps),
        frozenset(reader.bound),
        frozenset(reader.surely),
        tuple(reader.imports),
    )


def parameters_of(arguments: ast.arguments) -> list[ast.arg]:
    """Return the parameters of a function, those for all that is left over last."""
    named = [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs]
    return named + [arg for arg in (arguments.vararg, arguments.kwarg) if arg is not None]


def names_in_texts(code: types.CodeType) -> set[str]:
    """Return the words in a function's texts, if it may evaluate one of them as code."""
    found: set[str] = set()
    evaluates = not _EVALUATE.isdisjoint(code.co_names)
    for constant in code.co_consts:
        if evaluates and isinstance(constant, str):
            found.update(_IDENTIFIER.findall(constant))
        elif isinstance(constant, types.CodeType):
            found |= names_in_texts(constant)
    return found


class _Reader(ast.NodeVisitor):
    """Follows a cell in the order it runs."""

    def __init__(self) -> None:
        self.needed: set[str] = set()
        self.unbound: set[str] = set()
        self.perhaps: set[str] = set()
        self.bound: set[str] = set()
        self.surely: set[str] = set()  # bound on every path to here
        self.expected: set[str] = set()  # bound by a loop around here, the last time around
        self.later: list[set[str]] = []  # what function bodies read, at some later time
        self.imports: list[tuple[str, str, str]] = []

    def read(self, nodes: Iterable[ast.AST]) -> None:
        for node in nodes:
            self.visit(node)

    def read_in_any_order(self, tree: ast.AST) -> None:
        """Read what is too deep to be followed: a name that is bound anywhere may be needed."""
        names = [node for node in ast.walk(tree) if isinstance(node, ast.Name)]
        self.bound = {node.id for node in names if isinstance(node.ctx, ast.Store)}
        self.needed = {node.id for node in names if not isinstance(node.ctx, ast.Store)}
        self.unbound = self.needed - self.bound

    def visit_Name(self, node: ast.Name) -> None:
        if isinstance(node.ctx, ast.Store):
            self._bind(node.id)
        else:
            self._read_name(node.id)

    def _read_name(self, name: str) -> None:
        if name not in self.surely:
            self.needed.add(name)
        if name not in self.bound and name not in self.expected:
            self.unbound.add(name)

    def _read_annotation(self, node: ast.expr) -> None:
        """Read what perhaps is never evaluated: its names need not be bound."""
        before = set(self.unbound)
        self.visit(node)
        self.unbound = before

    def _bind(self, name: str) -> None:
        self.bound.add(name)
        self.surely.add(name)

    def _branches(self, *bodies: Sequence[ast.AST]) -> None:
        """Read bodies of which one runs; what all of them bind is surely bound after."""
        before = self.surely
        after = []
        for body in bodies:
            self.surely = set(before)
            self.read(body)
            after.append(self.surely)
        self.surely = set.intersection(*after)

    def _expect(self, body: Iterable[ast.AST]) -> None:
        """Note what a loop assigns: the next time around it is bound."""
        nodes = [node for statement in body for node in ast.walk(statement)]
        changed = {node.target for node in nodes if isinstance(node, ast.AugAssign)}
        names = {node for node in nodes if isinstance(node, ast.Name)} - changed
        self.expected |= {name.id for name in names if isinstance(name.ctx, ast.Store)}

    # ---- the order of a statement's parts, where it is not that of the syntax tree ----

    def visit_Assign(self, node: ast.Assign) -> None:
        self.read([node.value, *node.targets])

    def visit_AugAssign(self, node: ast.AugAssign) -> None:
        if isinstance(node.target, ast.Name):
            self._read_name(node.target.id)
        self.read([node.value, node.target])

    def visit_AnnAssign(self, node: ast.AnnAssign) -> None:
        self._read_annotation(node.annotation)
        if node.value is not None:
            self.read([node.value, node.target])

    def visit_NamedExpr(self, node: ast.NamedExpr) -> None:
        self.read([node.value, node.target])

    def visit_For(self, node: ast.For | ast.AsyncFor) -> None:
        self.visit(node.iter)
        self._expect(node.body)
        self._branches([node.target, *node.body], [])
        self._branches(node.orelse, [])

    visit_AsyncFor = visit_For

    def visit_While(self, node: ast.While) -> None:
        self.visit(node.test)
        self._expect(node.body)
        self._branches(node.body, [])
        self._branches(node.orelse, [])

    def visit_If(self, node: ast.If) -> None:
        self.visit(node.test)
        self._branches(node.body, node.orelse)

    def visit_IfExp(self, node: ast.IfExp) -> None:
        self.visit(node.test)
        self._branches([node.body], [node.orelse])

    def visit_Try(self, node: ast.Try | ast.TryStar) -> None:
        self._branches([*node.body, *node.orelse], *([handler] for handler in node.handlers))
        self.read(node.finalbody)

    visit_TryStar = visit_Try

    def visit_ExceptHandler(self, node: ast.ExceptHandler) -> None:
        if node.type is not None:
            self.visit(node.type)
        if node.name:
            self._bind(node.name)
        self.read(node.body)

    def visit_Match(self, node: ast.Match) -> None:
        self.visit(node.subject)
        self._branches([], *([case] for case in node.cases))

    def _visit_capture(self, node: ast.MatchAs | ast.MatchStar | ast.MatchMapping) -> None:
        self.generic_visit(node)
        if name := node.rest if isinstance(node, ast.MatchMapping) else node.name:
            self._bind(name)

    visit_MatchAs = visit_MatchStar = visit_MatchMapping = _visit_capture

    def visit_Import(self, node: ast.Import) -> None:
        for alias in node.names:
            package, _, module = alias.name.rpartition(".")
            self._bind(alias.asname or alias.name.partition(".")[0])
            if alias.asname and package:
                self.imports.append((alias.asname, package, module))

    def visit_ImportFrom(self, node: ast.ImportFrom) -> None:
        for alias in node.names:
            name = alias.asname or alias.name
            self._bind(name)
            if node.module and not node.level:
                self.imports.append((name, node.module, alias.name))

    # ---- scopes ----

    def visit_FunctionDef(self, node: ast.FunctionDef | ast.AsyncFunctionDef) -> None:
        self.read([*node.decorator_list, node.args])
        if node.returns is not None:
            self._read_annotation(node.returns)
        self.later.append(_free_names(node))
        self._bind(node.name)

    visit_AsyncFunctionDef = visit_FunctionDef

    def visit_Lambda(self, node: ast.Lambda) -> None:
        self.visit(node.args)
        self.later.append(_free_names(node))

    def visit_arguments(self, node: ast.arguments) -> None:
        defaults = [*node.defaults, *(d for d in node.kw_defaults if d is not None)]
        self.read(defaults)
        for arg in parameters_of(node):
            if arg.annotation is not None:
                self._read_annotation(arg.annotation)

    def visit_ClassDef(self, node: ast.ClassDef) -> None:
        self.read([*node.decorator_list, *node.bases, *node.keywords])
        inside = type(self)()
        inside.read(node.body)
        self.needed |= inside.needed - self.surely
        self.unbound |= inside.unbound - self.bound - self.expected
        self.perhaps |= inside.perhaps
        self.later += inside.later  # a method does not see the names of its class
        self._bind(node.name)

    def _visit_comprehension(
        self, node: ast.ListComp | ast.SetComp | ast.DictComp | ast.GeneratorExp
    ) -> None:
        inside = _Reader()
        inside.surely, inside.bound = set(self.surely), self.bound | self.expected
        for generator in node.generators:
            inside.read([generator.iter, generator.target, *generator.ifs])
        parts = [node.key, node.value] if isinstance(node, ast.DictComp) else [node.elt]
        inside.read(parts)
        self.needed |= inside.needed
        self.unbound |= inside.unbound
        self.perhaps |= inside.perhaps
        self.later += inside.later

    visit_ListComp = visit_SetComp = visit_DictComp = visit_GeneratorExp = _visit_comprehension

    # ---- texts that are read as code ----

    def visit_Call(self, node: ast.Call) -> None:
        self.generic_visit(node)
        for text in _texts_of(node):
            for part in ast.walk(text):
                if isinstance(part, ast.Constant) and isinstance(part.value, str):
                    self.perhaps.update(_IDENTIFIER.findall(part.value))


def _texts_of(call: ast.Call) -> Sequence[ast.expr]:
    """Return what of a call is evaluated, or filled in, where it is called.

    `%timeit f(x)` is ``get_ipython().run_line_magic('timeit', 'f(x)')``.
    """
    given = [*call.args, *(keyword.value for keyword in call.keywords)]
    if isinstance(call.func, ast.Name):
        return given if call.func.id in _EVALUATE else ()
    if not isinstance(call.func, ast.Attribute):
        return ()
    of = call.func.value
    if call.func.attr in _FORMAT:
        names = {n.id for arg in given for n in ast.walk(arg) if isinstance(n, ast.Name)}
        return [of] if names & {"globals", "locals", "vars"} else ()
    is_magic = isinstance(of, ast.Call) and getattr(of.func, "id", None) == "get_ipython"
    return given if is_magic or call.func.attr in _EVALUATE else ()


class _FutureReader(_Reader):
    """Reads a cell whose annotations are not evaluated, except by who asks for them."""

    def _read_annotation(self, node: ast.expr) -> None:
        names = (part.id for part in ast.walk(node) if isinstance(part, ast.Name))
        self.perhaps.update(names)


def _free_names(function: ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda) -> set[str]:
    """Return the names that a function reads and neither it nor a function in it binds."""
    own = {argument.arg for argument in parameters_of(function.args)}
    inside = _Reader()
    inside.read(function.body if isinstance(function.body, list) else [function.body])
    declared = {
        name for node in ast.walk(function) if isinstance(node, ast.Global) for name in node.names
    }
    read = inside.needed | inside.perhaps | set().union(*inside.later)
    return (read - own - inside.bound) | (read & declared)
