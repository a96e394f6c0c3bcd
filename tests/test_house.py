"""The house rules: floors, environments that agree, nothing of one machine in any file."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
import tomllib
from importlib import metadata
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from support import ROOT

import icreward_lib

LIBRARY = ROOT / "icreward_lib"
MODULES = sorted(LIBRARY.rglob("*.py"))
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]

# Top to bottom. A room, a file or folder of the library, may import from its own floor and from those below.
FLOORS = [
    {"cli", "beyond", "__main__"},
    {"poster"},
    {"laptop", "dpo", "study", "score"},
    {"rewards"},
    {"metrics", "generators", "world", "figures"},
    {"run", "video", "stats", "training"},
]


def module_name(path: Path) -> str:
    """`metrics.clip` for icreward_lib/metrics/clip.py, and an empty name for the package itself."""
    parts = path.relative_to(LIBRARY).with_suffix("").parts
    return ".".join(part for part in parts if part != "__init__")


NAMES = {module_name(path): path for path in MODULES}


def imports(path: Path) -> set[str]:
    """The full names that a module imports from, anywhere in it."""
    found = set()
    package = ["icreward_lib", *path.parent.relative_to(LIBRARY).parts]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            source = ".".join([*base, *([node.module] if node.module else [])])
            found |= {f"{source}.{alias.name}" for alias in node.names}
    return found


def own_imports(path: Path) -> set[str]:
    """The modules of this library that a module imports."""
    found = set()
    for name in imports(path):
        if name.split(".")[0] == "icreward_lib":
            inner = name.split(".")[1:]
            while inner and ".".join(inner) not in NAMES:
                inner = inner[:-1]
            found.add(".".join(inner))
    return found - {"", module_name(path)}


def floor(name: str) -> int:
    top = name.split(".")[0]
    for number, members in enumerate(FLOORS):
        if top in members:
            return number
    raise AssertionError(f"icreward_lib.{top} stands on no floor: add it to FLOORS")


@pytest.mark.parametrize("name", [name for name in NAMES if name])
def test_imports_run_downwards_only(name: str) -> None:
    upwards = {other for other in own_imports(NAMES[name]) if floor(other) < floor(name)}
    assert not upwards, f"icreward_lib.{name} imports from a floor above it: {sorted(upwards)}"


def test_imports_run_in_no_circle() -> None:
    graph = {name: own_imports(path) for name, path in NAMES.items()}
    left = dict(graph)
    while free := [name for name, needs in left.items() if not needs & left.keys()]:
        for name in free:
            del left[name]
    assert not left, f"these import each other in a circle: {sorted(left)}"


def test_no_module_is_a_grab_bag() -> None:
    assert not [name for name in NAMES if {"utils", "util", "helpers", "common", "misc"} & set(name.split("."))]


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.relative_to(LIBRARY).as_posix())
def test_modules_catch_only_what_they_expect(path: Path) -> None:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ExceptHandler):
            caught = ast.unparse(node.type) if node.type else "everything"
            assert caught not in ("everything", "Exception", "BaseException"), f"line {node.lineno}"


def requirements(lines: list[str]) -> dict[str, Requirement]:
    found = {canonicalize_name(each.name): each for each in map(Requirement, lines)}
    assert len(found) == len(lines), "one requirement stands twice"
    return found


def pins() -> dict[str, str]:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").split()
    assert all(re.fullmatch(r"[A-Za-z0-9._-]+==[0-9][0-9a-z.]*", line) for line in lines)
    return {canonicalize_name(name): version for name, version in (line.split("==") for line in lines)}


def declared() -> dict[str, Requirement]:
    return requirements(PROJECT["dependencies"] + PROJECT["optional-dependencies"]["dev"])


def test_constraints_pin_what_the_project_declares_within_its_bounds() -> None:
    pinned = pins()
    for name, requirement in declared().items():
        assert name in pinned, f"{name} is not in constraints.txt"
        assert [bound.operator for bound in requirement.specifier] == [">="], f"{name} needs one lower bound"
        assert requirement.specifier.contains(pinned[name]), f"{requirement} excludes {pinned[name]}"


def test_constraints_cover_everything_that_comes_along() -> None:
    """All that the declared packages need here is pinned too, so that an install cannot drift."""
    pinned, todo, seen = pins(), list(declared()), set()
    while todo:
        name = todo.pop()
        if name in seen:
            continue
        seen.add(name)
        assert name in pinned, f"{name} is not in constraints.txt"
        for line in metadata.requires(name) or []:
            needed = Requirement(line)
            if needed.marker is None or needed.marker.evaluate({"extra": ""}):
                todo.append(canonicalize_name(needed.name))


def test_conda_environment_installs_the_project_and_nothing_else() -> None:
    environment = yaml.safe_load((ROOT / "environment.yml").read_text(encoding="utf-8"))
    (pip,) = (entry["pip"] for entry in environment["dependencies"] if isinstance(entry, dict))
    assert pip == ["-c constraints.txt", "-e .[dev]"]
    plain = [entry for entry in environment["dependencies"] if isinstance(entry, str)]
    (python,) = (entry.split("=")[1] for entry in plain if entry.startswith("python="))
    assert Requirement(f"python{PROJECT['requires-python']}").specifier.contains(f"{python}.0")
    assert set(plain) == {f"python={python}", "pip"}


def test_every_import_is_declared() -> None:
    distributions = metadata.packages_distributions()
    for path in MODULES:
        for name in {name.split(".")[0] for name in imports(path)} - sys.stdlib_module_names - {"icreward_lib"}:
            owners = {canonicalize_name(owner) for owner in distributions.get(name, [])}
            assert owners & declared().keys(), f"{path.name} imports {name}, which pyproject.toml does not declare"


def test_one_version_everywhere() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert icreward_lib.__version__ == PROJECT["version"] == citation["version"]
    names = [f"{author['given-names']} {author['family-names']}" for author in citation["authors"]]
    assert names == [author["name"] for author in PROJECT["authors"]] == ["Agnes Liang", "Renee Zbizika"]
    assert citation["license"] == PROJECT["license"] == "Apache-2.0"
    licence = (ROOT / "LICENSE").read_text(encoding="utf-8")
    assert "Version 2.0, January 2004" in licence and "END OF TERMS AND CONDITIONS" in licence


def test_continuous_integration_runs_what_contributors_run() -> None:
    script = ROOT / ".ci" / "run"
    assert os.access(script, os.X_OK)
    assert script.read_text(encoding="utf-8").splitlines()[-1] == "make test"


def test_make_explains_every_target() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    (phony,) = re.findall(r"^\.PHONY: (.*)$", makefile, re.M)
    # Inside another make, as in `make test`, this one would also say which folder it is in.
    command = ["make", "--no-print-directory", "help"]
    shown = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert [line.split()[0] for line in shown.splitlines()] == phony.split()
    assert set(phony.split()) >= {"reproduce", "test", "lint", "lab", "clean", "help"}


def project_files() -> list[Path]:
    """Files that are, or would be, in git; all of them where there is no git."""
    command = ["git", "-C", str(ROOT), "ls-files", "-co", "--exclude-standard"]
    listed = subprocess.run(command, capture_output=True, text=True)
    if listed.returncode == 0:
        return [path for name in listed.stdout.splitlines() if (path := ROOT / name).is_file()]
    return [path for path in ROOT.rglob("*") if path.is_file() and ".venv" not in path.parts]


def test_no_file_names_a_path_of_a_machine() -> None:
    here = [re.escape(str(folder)) for folder in (ROOT, *ROOT.parents[:-1], Path.home()) if folder != Path("/")]
    machine = re.compile(r"(?<![\w.])(?:" + "|".join([*here, "/home/[a-z]", "/Users/[A-Za-z]", "/tmp"]) + r")/\w")
    found = []
    for path in project_files():
        content = path.read_bytes()
        if b"\0" not in content[:8192]:
            text = content.decode("utf-8", errors="ignore")
            found += [f"{path.relative_to(ROOT)}: {match.group()}" for match in machine.finditer(text)]
    assert not found
