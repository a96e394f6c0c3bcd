"""Several processes make together what one makes alone: trainings, stages, and what they may begin for each other."""

from __future__ import annotations

import os
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from support import ROOT, launched
from support.launched import REWARDS, judge, killed, make_items, train_dpo, train_one
from support.small_dpo import denoiser
from support.tiny_vlm import build_vlm

from icreward_lib.dpo import add_denoiser_lora
from icreward_lib.run.processes import device, gather, own_share

pytestmark = pytest.mark.slow

PROCESSES = 2
# Of sums in another order. Found: 8e-7 and 2e-5 in histories, 2e-4 in weights, whose smallest gradients AdamW enlarges.
REWARD, DPO, WEIGHTS = 1e-5, 2e-4, 2e-3


def launch(folder: Path) -> list[dict[str, Any]]:
    """What each process came to."""
    # With --cpu accelerate starts one process only; with --multi_gpu those that find no GPU meet on the CPU.
    options = ["--multi_gpu", "--num_processes", str(PROCESSES), "--num_machines", "1", "--main_process_port", "0"]
    command = [sys.executable, "-m", "accelerate.commands.launch", *options, "--mixed_precision", "no"]
    own = {"ICREWARD_OUTPUT": str(folder / "output"), "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests")])}
    environment = os.environ | own | {"CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
    run = subprocess.run(
        [*command, str(Path(launched.__file__)), str(folder)],
        cwd=ROOT,
        env=environment,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        timeout=300,
    )
    assert run.returncode == 0, run.stdout
    return [torch.load(folder / f"{rank}.pt", weights_only=False) for rank in range(PROCESSES)]


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What one process comes to."""
    folder = tmp_path_factory.mktemp("alone")
    build_vlm(folder / "vlm")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ICREWARD_OUTPUT", str(folder / "output"))
        patch.delenv("ICREWARD_PROFILE", raising=False)
        found: dict[str, Any] = {name: train_one(name, folder / name) for name in REWARDS}
        return found | {"folder": folder, "dpo": train_dpo(folder / "dpo"), "items": make_items(), "judged": judge()}


@pytest.fixture(scope="module")
def together(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[dict[str, Any]]]:
    """The folder of several processes, and what each came to, after one had begun two trainings for them."""
    folder = tmp_path_factory.mktemp("together")
    build_vlm(folder / "vlm")
    killed(train_one, "mlp", folder / "begun_mlp", 1)
    killed(train_dpo, folder / "begun_dpo", 3)
    return folder, launch(folder)


Together = tuple[Path, list[dict[str, Any]]]
Outcome = dict[str, torch.Tensor]


def differences(found: Outcome, expected: Outcome) -> dict[str, float]:
    """Relative differences: of a number to the largest of its tensor, or to 1e-3 if all are smaller."""
    assert found.keys() == expected.keys()
    return {
        name: float((found[name] - value).abs().max() / value.abs().max().clamp(min=1e-3))
        for name, value in expected.items()
    }


def assert_close(found: Outcome, expected: Outcome, tolerance: float) -> None:
    """Histories within `tolerance`, weights within `WEIGHTS`."""
    far = differences(found, expected)
    assert [item for item in far.items() if item[1] > (tolerance if item[0].startswith("history") else WEIGHTS)] == []


@pytest.mark.e2e
@pytest.mark.parametrize("name", [*REWARDS, "mlp resumed"])
def test_rewards_train_to_the_numbers_of_one_process(alone: dict[str, Any], together: Together, name: str) -> None:
    first, *others = (found[name] for found in together[1])
    assert all(set(differences(other, first).values()) == {0.0} for other in others)
    assert_close(first, alone[name.split()[0]], REWARD)


@pytest.mark.e2e
@pytest.mark.parametrize("name", ["dpo", "dpo resumed"])
def test_dpo_trains_to_the_numbers_of_one_process(alone: dict[str, Any], together: Together, name: str) -> None:
    first, *others = (dict(found[name]) for found in together[1])
    shares = [found.pop("share") for found in (first, *others)]
    assert shares == [pytest.approx(1 / PROCESSES, abs=0.01)] * PROCESSES
    assert all(set(differences(other, first).values()) == {0.0} for other in others)
    expected = dict(alone["dpo"])
    assert expected.pop("share") == 1
    assert_close(first, expected, DPO)


@pytest.mark.e2e
@pytest.mark.fault
def test_one_process_goes_on_with_what_several_began(alone: dict[str, Any], together: Together) -> None:
    folder, _ = together
    assert_close(train_one("mlp", folder / "left_mlp"), alone["mlp"], REWARD)
    assert_close(train_dpo(folder / "left_dpo"), alone["dpo"], DPO)


@pytest.mark.e2e
@pytest.mark.fault
def test_processes_share_a_stage_also_after_a_restart(alone: dict[str, Any], together: Together) -> None:
    folder, found = together
    assert [process["items"] for process in found] == [["4.npz", "6.npz", "all.npz"], ["5.npz"]]
    expected, made = (stage_files(place / "output", "squares") for place in (alone["folder"], folder))
    assert made == expected and len(made) == 8


@pytest.mark.e2e
def test_a_reward_of_several_processes_is_judged_and_kept_once(alone: dict[str, Any], together: Together) -> None:
    folder, found = together
    for process in found:
        assert_close(process["judged"], alone["judged"], REWARD)
    names = stage_files(folder / "output", "reward_mlp").keys()
    assert names == stage_files(alone["folder"] / "output", "reward_mlp").keys()
    (journal,) = folder.glob("output/.cache/smoke/reward_mlp/*/.journal-*")
    items = sorted(line.split()[1] for line in journal.read_text(encoding="utf-8").splitlines() if line)
    assert items == [".done.json", "0.npz", "1.npz", "model_0", "model_1"]


def stage_files(output: Path, stage: str) -> dict[str, bytes]:
    """The items of a finished stage and their content, without its account."""
    (folder,) = (output / ".cache" / "smoke" / stage).iterdir()
    paths = [path for path in folder.rglob("*") if path.is_file() and not path.name.startswith(".")]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}


@pytest.mark.e2e
def test_what_was_shared_comes_together_in_order(together: Together) -> None:
    assert [process["gathered"] for process in together[1]] == [[0, 10, 20, 30, 40]] * PROCESSES
    assert gather([10 * number for number in own_share(range(5))] + [-1], 5) == [0, 10, 20, 30, 40]


def test_every_process_has_its_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert device() == "cuda"
    monkeypatch.setenv("WORLD_SIZE", "4")
    monkeypatch.setenv("LOCAL_RANK", "3")
    assert device() == "cuda:3"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert device() == "cpu"


def test_adapters_of_a_bfloat16_denoiser_are_float32() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        policy = add_denoiser_lora(denoiser().to(torch.bfloat16), rank=2, alpha=4, seed=0)
    types = {(weight.requires_grad, weight.dtype) for weight in policy.parameters()}
    assert types == {(True, torch.float32), (False, torch.bfloat16)}
