"""The definitions of this library that a function, or a notebook, reaches: what the key of a stage follows from.

A definition is a function, a class or a constant at the top of a module. It reaches the ones that its names stand for,
annotations included: as every function here is annotated, that finds the methods of its arguments too. A protocol
reaches all classes of its module, which are those that fulfil it. The room `run` is left out: it says where content
lies, not what it is.
"""

from __future__ import annotations

import ast
import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any

LIBRARY = Path(__file__).parents[1]
_NAME = LIBRARY.name
_LEFT_OUT = f"{_NAME}.run"

Definition = tuple[str, str]  # a module's full name, and a name at its top


class _Module:
    """What a module, or a notebook, defines and imports."""

    def __init__(self, tree: ast.Module, name: str = "") -> None:
        self.name = name
        self.defined: dict[str, list[ast.stmt]] = {}
        self.imported: dict[str, tuple[str, str]] = {}  # name -> module and its name there, "" for the module itself
        self.protocols: set[str] = set()
        self.classes: list[str] = []
        for statement in tree.body:
            for name in _bound(statement):
                self.defined.setdefault(name, []).append(statement)
            if isinstance(statement, ast.ClassDef):
                self.classes.append(statement.name)
                if any(isinstance(base, ast.Name) and base.id == "Protocol" for base in statement.bases):
                    self.protocols.add(statement.name)
        for node in ast.walk(tree):
            self.imported |= _imported(node)
        self._hashes: dict[str, str] = {}

    def hash(self, top: str) -> str:
        """Hash of a definition."""
        if top not in self._hashes:
            self._hashes[top] = _digest([_plain(statement) for statement in self.defined[top]])
        return self._hashes[top]


def _bound(statement: ast.stmt) -> Iterator[str]:
    """The names that a statement at the top of a module defines."""
    if isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        yield statement.name
    elif not isinstance(statement, ast.Import | ast.ImportFrom):
        for node in ast.walk(statement):
            if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
                yield node.id


def _imported(node: ast.AST) -> dict[str, tuple[str, str]]:
    """What an import of this library brings, by the name that it gets."""
    if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == _NAME:
        return {alias.asname or alias.name: (str(node.module), alias.name) for alias in node.names}
    if isinstance(node, ast.Import):
        return {a.asname: (a.name, "") for a in node.names if a.asname and a.name.split(".")[0] == _NAME}
    return {}


def _file(module: str) -> Path | None:
    path = LIBRARY.joinpath(*module.split(".")[1:])
    found = [each for each in (path.with_suffix(".py"), path / "__init__.py") if each.is_file()]
    return found[0] if found else None


@cache
def _module(name: str, path: Path, modified: int) -> _Module:
    return _Module(ast.parse(path.read_text(encoding="utf-8")), name)


def _load(name: str) -> _Module | None:
    path = _file(name)
    return _module(name, path, path.stat().st_mtime_ns) if path else None


def _resolve(module: str, name: str) -> tuple[str, str] | None:
    """Where a name of a module is defined: ("...", "") for a module, None for what is not of this library."""
    if _file(f"{module}.{name}"):
        return f"{module}.{name}", ""
    found = _load(module)
    if found is None:
        return None
    if name in found.defined:
        return module, name
    if name in found.imported:
        source, original = found.imported[name]
        return _resolve(source, original) if original else (source, "")
    return None


def _names(nodes: Iterable[ast.AST], module: _Module) -> Iterator[Definition]:
    """The definitions that some code of a module names."""
    for node in (inner for outer in nodes for inner in ast.walk(outer)):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            target = _target(node.value.id, module)
            if target and not target[1] and (found := _resolve(target[0], node.attr)):
                yield found
        elif isinstance(node, ast.Name) and (target := _target(node.id, module)) and target[1]:
            yield target


def _target(name: str, module: _Module) -> tuple[str, str] | None:
    if name in module.imported:
        source, original = module.imported[name]
        return _resolve(source, original) if original else (source, "")
    return (module.name, name) if name in module.defined and module.name else None


def _reached(start: Iterable[Definition]) -> list[Definition]:
    todo, seen = list(start), set[Definition]()
    while todo:
        definition = todo.pop()
        name, top = definition
        if definition in seen or not top or name == _LEFT_OUT or name.startswith(f"{_LEFT_OUT}."):
            continue
        module = _load(name)
        if module is None or top not in module.defined:
            continue
        seen.add(definition)
        todo += _names(module.defined[top], module)
        if top in module.protocols:
            todo += [(name, other) for other in module.classes]
    return sorted(seen)


def definitions(functions: Callable[..., Any] | Sequence[Callable[..., Any]]) -> list[Definition]:
    """All that some functions of this library reach, themselves included; an inner function stands for its outer one.

    Raises:
        ValueError: for a function that is defined elsewhere.
    """
    roots = [functions] if callable(functions) else list(functions)
    start = [(root.__module__, root.__qualname__.split(".")[0]) for root in roots]
    for module, name in start:
        found = _load(module) if module.split(".")[0] == _NAME else None
        if found is None or name not in found.defined:
            raise ValueError(f"{module}.{name} is not at the top of a module of {_NAME}")
    return _reached(start)


def code_hash(functions: Callable[..., Any] | Sequence[Callable[..., Any]]) -> str:
    """Hash of `definitions`. Comments, docstrings and layout do not count."""
    return _hash(definitions(functions))


def notebook_code_hash(path: Path) -> str:
    """Hash of the code cells of a notebook and of all that they reach in this library; prose does not count."""
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    sources = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
    tree = ast.parse("\n".join(sources))
    return _digest([_plain(tree), _hash(_reached(_names([tree], _Module(tree))))])


def _hash(reached: Sequence[Definition]) -> str:
    modules = {name: module for name, _ in reached if (module := _load(name))}
    return _digest([[name, top, modules[name].hash(top)] for name, top in reached])


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
