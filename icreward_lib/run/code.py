"""The definitions (functions, classes, constants at the top of a module) that code reaches: stage keys follow from it.

They are those that its names stand for, annotations included, which finds the methods of its arguments too. A protocol
reaches all classes of its module, those that fulfil it. The room `run` is left out: it says where content lies.
"""

from __future__ import annotations

import ast
import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any

LIBRARY = Path(__file__).parents[1]
_NAME = LIBRARY.name
_LEFT_OUT = f"{_NAME}.run"

Code = Callable[..., Any] | Sequence[Callable[..., Any]]
Definition = tuple[str, str]  # a module's full name, and a name at its top; "" for the module itself


class _Module:
    """What a module, or a notebook, defines and imports."""

    def __init__(self, tree: ast.Module, name: str = "") -> None:
        self.name = name
        self.defined: dict[str, list[ast.stmt]] = {}
        self.imported: dict[str, Definition] = {}
        self.classes = [each for each in tree.body if isinstance(each, ast.ClassDef)]
        for statement in tree.body:
            for bound in _bound(statement):
                self.defined.setdefault(bound, []).append(statement)
        for node in ast.walk(tree):  # imports inside functions, too
            if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == _NAME:
                self.imported |= {alias.asname or alias.name: (str(node.module), alias.name) for alias in node.names}
            elif isinstance(node, ast.Import):
                # `import a.b` brings the name a, `import a.b as c` the module a.b by the name c.
                found = [(a.asname or _NAME, a.name if a.asname else _NAME) for a in node.names if _ours(a.name)]
                self.imported |= {bound: (module, "") for bound, module in found}

    def reached(self, top: str) -> Iterator[Definition]:
        yield from self.named(self.defined[top])
        if any(each.name == top and "Protocol" in map(ast.unparse, each.bases) for each in self.classes):
            yield from ((self.name, each.name) for each in self.classes)

    def named(self, nodes: Iterable[ast.AST]) -> Iterator[Definition]:
        """The definitions that some code of this module names."""
        places = (self._place(node) for outer in nodes for node in ast.walk(outer))
        return (found for found in places if found and found[1])

    def _place(self, node: ast.AST) -> Definition | None:
        """What a name, with or without dots, stands for; None for what is not of this library."""
        if isinstance(node, ast.Name):
            if node.id in self.imported:
                return _resolve(*self.imported[node.id])
            return (self.name, node.id) if node.id in self.defined and self.name else None
        if isinstance(node, ast.Attribute) and (base := self._place(node.value)) and not base[1]:
            return _resolve(base[0], node.attr)
        return None

    @cache  # noqa: B019 - modules live as long as the process
    def hash(self, top: str) -> str:
        return _digest([_plain(statement) for statement in self.defined[top]])


def _ours(module: str) -> bool:
    return module.split(".")[0] == _NAME


def _bound(statement: ast.stmt) -> set[str]:
    if isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        return {statement.name}
    nodes = [node for node in ast.walk(statement) if isinstance(node, ast.Name)]
    return {node.id for node in nodes if isinstance(node.ctx, ast.Store)}


def _file(module: str) -> Path | None:
    path = LIBRARY.joinpath(*module.split(".")[1:])
    return next((each for each in (path.with_suffix(".py"), path / "__init__.py") if each.is_file()), None)


@cache
def _parsed(name: str, path: Path, modified: int) -> _Module:
    return _Module(ast.parse(path.read_text(encoding="utf-8")), name)


def _load(name: str) -> _Module | None:
    path = _file(name) if _ours(name) else None
    return _parsed(name, path, path.stat().st_mtime_ns) if path else None


def _resolve(module: str, name: str) -> Definition | None:
    """Where a name of a module is defined, through modules that only pass it on; None for what is not there."""
    if not name or _file(f"{module}.{name}"):
        return f"{module}.{name}".rstrip("."), ""
    found = _load(module)
    if found and name in found.defined:
        return module, name
    return _resolve(*found.imported[name]) if found and name in found.imported else None


def _closure(start: Iterable[Definition]) -> list[Definition]:
    todo, seen = list(start), set[Definition]()
    while todo:
        definition = todo.pop()
        name, top = definition
        if definition not in seen and not f"{name}.".startswith(f"{_LEFT_OUT}.") and (module := _load(name)):
            seen.add(definition)
            todo += module.reached(top)
    return sorted(seen)


def definitions(functions: Code) -> list[Definition]:
    """All that some functions reach, themselves included; an inner one stands for its outer one.

    Raises `ValueError` for a function that is not of this library.
    """
    roots = [functions] if callable(functions) else functions
    plain = [root.func if isinstance(root, partial) else root for root in roots]
    start = [(root.__module__, root.__qualname__.split(".")[0]) for root in plain]
    for name, top in start:
        module = _load(name)
        if module is None or top not in module.defined:
            raise ValueError(f"{name}.{top} is not at the top of a module of {_NAME}: give functions of the library")
    return _closure(start)


def code_hash(functions: Code) -> str:
    """Hash of `definitions`. Comments, docstrings and layout do not count."""
    return _hash(definitions(functions))


def notebook_code_hash(path: Path) -> str:
    """Hash of the code cells of a notebook and of all that they reach. Raises `ValueError` for what is not Python."""
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    source = "\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "code")
    try:
        tree = ast.parse(source)
    except SyntaxError as error:
        raise ValueError(f"{path.name}: '{(error.text or '').strip()}' is not Python: {error.msg}") from error
    return _digest([_plain(tree), _hash(_closure(_Module(tree).named([tree])))])


def _hash(reached: Sequence[Definition]) -> str:
    return _digest([[name, top, module.hash(top)] for name, top in reached if (module := _load(name))])


def _digest(value: object) -> str:
    return hashlib.sha256(json.dumps(value, default=repr).encode()).hexdigest()[:16]


def _plain(node: object) -> object:
    """A syntax tree as lists, without positions, docstrings and empty fields, which differ between Pythons."""
    if isinstance(node, list):
        return [_plain(each) for each in node]
    if not isinstance(node, ast.AST):
        return node
    fields = {name: value for name, value in ast.iter_fields(node) if value not in (None, [])}
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef | ast.Module) and ast.get_docstring(node):
        fields["body"] = node.body[1:]
    return [type(node).__name__, {name: _plain(value) for name, value in fields.items() if name != "type_ignores"}]
