"""What all trainings share: rates, checkpoints that belong to one training, and hashes of tensors."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from icreward_lib.training import Row, Schedule, Training, digest


def training(path: Path, **made_by: float) -> Training:
    weight = nn.Parameter(torch.ones(3))
    return Training({"weight": weight}, [torch.optim.SGD([weight], lr=0.5)], path, made_by)


def run(one: Training, steps: int, every: int = 2) -> list[tuple[int, int]]:
    """Steps done and rows seen at every look."""
    (weight,), looks = one.trained.values(), list[tuple[int, int]]()

    def descend(step: int) -> Row:
        (weight * (step + 1)).sum().backward()
        return {"step": step}

    one.run(Schedule(steps, every, clip=1e9), descend, lambda done, rows: looks.append((done, len(rows))))
    return looks


def test_rates_rise_and_fall() -> None:
    schedule = Schedule(steps=12, every=1, warmup=4, least=0.2)
    assert [schedule.rate(step) for step in (0, 3, 4, 8, 12)] == pytest.approx([0.25, 1, 1, 0.6, 0.2])
    assert {Schedule(steps=12, every=1, least=1.0).rate(step) for step in range(12)} == {1}


def test_a_look_follows_every_so_many_steps_and_the_last(tmp_path: Path) -> None:
    one = training(tmp_path / "state.pt")
    assert run(one, 5) == [(2, 2), (4, 2), (5, 1)]
    again = training(tmp_path / "state.pt")
    assert again.done == 5 and torch.equal(again.trained["weight"], one.trained["weight"])
    assert run(again, 5) == [], "it is finished"


def test_plain_descent_by_hand(tmp_path: Path) -> None:
    one = training(tmp_path / "state.pt")
    run(one, 2)  # rates 1 and 1/2 of 0.5, gradients 1 and 2
    torch.testing.assert_close(one.trained["weight"].detach(), torch.full((3,), 1 - 0.5 * 1 - 0.25 * 2))


@pytest.mark.fault
def test_checkpoints_of_others_and_damaged_ones_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "state.pt"
    run(training(path, seed=1, lr=0.5), 2)
    with pytest.raises(ValueError, match=r"state\.pt is of a training that differs in seed: delete it or use another"):
        training(path, seed=2, lr=0.5)
    with pytest.raises(ValueError, match="differs in lr, rank"):
        training(path, seed=1, rank=4)
    for size in (500, 10, 0):
        path.write_bytes(path.read_bytes()[:size])
        with pytest.raises(ValueError, match=r"state\.pt is damaged: delete it"):
            training(path, seed=1, lr=0.5)


def test_a_digest_is_of_what_tensors_hold() -> None:
    values = torch.arange(6.0).view(2, 3).to(torch.bfloat16)
    assert digest(values, values) == digest(values.clone(), values.T.contiguous().T) != digest(values, values + 1)
