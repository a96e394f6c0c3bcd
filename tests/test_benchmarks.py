"""The benchmarks' two sides say the same, and their committed results are what the README shows of them."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from support import ROOT

from benchmarks.dpo_forms import Form, Forms, gradient_difference, make_batch, on_adapters
from benchmarks.record import AIMED, BESIDE, COSTS, Line, summary, with_table
from benchmarks.sampling import flops
from benchmarks.scoring import (
    Cached,
    Candidates,
    Metrics,
    difference,
    make_candidates,
    new_reward,
    reward_one_at_a_time,
    reward_together,
)
from icreward_lib.generators.opensora.transformer import STDiT3
from icreward_lib.run.profile import load_profile

BENCHMARKS = ROOT / "benchmarks"
LATENT = (2, 8, 8)


@pytest.fixture(scope="module")
def candidates(tmp_path_factory: pytest.TempPathFactory) -> Candidates:
    return make_candidates(tmp_path_factory.mktemp("candidates"), count=2, num_frames=5, side=32)


@pytest.fixture(scope="module")
def forms() -> Forms:
    model = STDiT3(
        input_sq_size=64, hidden_size=48, depth=1, num_heads=2, pred_sigma=False, caption_channels=8, model_max_length=4
    )
    draw = torch.Generator().manual_seed(0)
    for weight in model.parameters():  # where a fresh one is zero, nothing would be learned behind it
        weight.data.add_(0.05 * torch.randn(weight.shape, generator=draw))
    return Forms.of(model.double(), rank=load_profile("laptop").dpo.lora_rank)


@pytest.fixture(scope="module")
def results() -> dict[str, Any]:
    found: dict[str, Any] = json.loads((BENCHMARKS / "results.json").read_text(encoding="utf-8"))
    return found


def test_vbench_and_clipsim_are_those_of_one_clip_and_frame_at_a_time(candidates: Candidates) -> None:
    metrics = Metrics.load()
    scores = metrics.together(candidates)
    assert difference(scores, metrics.one_at_a_time(candidates)) <= 1e-5
    assert difference(scores, metrics.one_at_a_time_sharing(candidates)) <= 1e-5
    assert all(np.ptp(values) > 1e-4 for values in scores.values()), "equal scores of all clips would show nothing"


def test_icreward_scores_clips_at_once_as_one_at_a_time(candidates: Candidates) -> None:
    reward = new_reward()
    assert difference(reward_together(reward, candidates), reward_one_at_a_time(reward, candidates)) <= 1e-5


def test_a_new_head_scores_what_is_cached_as_it_scores_frames(candidates: Candidates) -> None:
    reward = new_reward()
    before = reward_together(reward, candidates)
    cached = Cached.of(reward, candidates)
    scores = cached.from_frames()
    assert difference(cached.from_states(), scores) <= 1e-5
    assert difference(cached.from_tokens(), scores) <= 1e-5
    assert np.abs(scores["subject"] - before["subject"]).min() > 1e-4, "the head is another one"


def test_all_forms_of_a_dpo_step_have_one_gradient(forms: Forms) -> None:
    batch = make_batch(load_profile("laptop"), forms.one.policy.get_base_model(), 2, LATENT)
    own = forms.one.gradients(batch)
    assert all(gradient.abs().max() > 0 for gradient in own.values())
    assert gradient_difference(own, forms.copied.gradients(batch)) <= 1e-6
    assert gradient_difference(own, on_adapters(forms.one.policy, forms.whole.gradients(batch))) <= 1e-6


def test_a_step_of_training_moves_what_trains_and_nothing_else(forms: Forms) -> None:
    batch = make_batch(load_profile("laptop"), forms.one.policy.get_base_model(), 2, LATENT)
    for form in (forms.one, forms.whole):
        before = {name: weight.detach().clone() for name, weight in form.policy.named_parameters()}
        form.training()(batch)
        moved = {name for name, weight in form.policy.named_parameters() if not torch.equal(weight, before[name])}
        assert moved == {name for name, weight in form.policy.named_parameters() if weight.requires_grad}


def test_a_copy_adds_its_weights_and_training_them_all_adds_activations(forms: Forms) -> None:
    batch = make_batch(load_profile("laptop"), forms.one.policy.get_base_model(), 2, LATENT)
    own, copied, whole = (form.bytes_held(batch) for form in (forms.one, forms.copied, forms.whole))
    base = forms.copied.models[1]
    held = sum(value.numel() * value.element_size() for value in (*base.parameters(), *base.buffers()))
    assert copied == (own[0] + held, own[1])
    assert whole[1] > own[1]


def test_activations_are_counted_once_and_without_weights() -> None:
    layer = torch.nn.Linear(3, 5, bias=False)

    class Twice(Form):
        def loss(self, batch: Any) -> torch.Tensor:
            x = torch.ones(2, 3, requires_grad=True)  # so that the weights are kept, too
            return (layer(x) + layer(x)).square().sum()

    held = Twice(layer, lambda batch: torch.zeros(()), (layer,)).bytes_held(None)
    assert held == (3 * 5 * 4, 2 * 3 * 4 + 2 * 5 * 4)  # the input of both, and the sum that is squared


def test_operations_of_attention_count() -> None:
    x = torch.ones(1, 2, 7, 16)
    product = 2 * 7 * 16 * 7
    assert flops(lambda: torch.nn.functional.scaled_dot_product_attention(x, x, x)) == 2 * 2 * product


def test_summary_is_that_of_the_rounds() -> None:
    assert summary([3.0, 1.0, 2.0]) == {"median": 2.0, "min": 1.0, "max": 3.0, "runs": 3}


def test_an_aim_is_met_from_its_number_on() -> None:
    least, most = Line("", ("at least", 2.0)), Line("", ("at most", 2.0))
    assert [least.met(value) for value in (1.9, 2.0)] == ["no", "yes"]
    assert [most.met(value) for value in (2.0, 2.1)] == ["yes", "no"]


def test_results_have_all_keys_and_numbers_in_order(results: dict[str, Any]) -> None:
    assert set(AIMED) == {
        "vbench_clipsim_speedup",
        "icreward_speedup",
        "rescore_speedup",
        "dpo_time_ratio",
        "dpo_memory_ratio",
        "sampling_matmul_fraction",
    }
    for found in [*(results[name] for name in AIMED), *(results["beside"][name] for name in BESIDE)]:
        assert set(found) == {"median", "min", "max", "runs"}
        assert 0 < found["min"] <= found["median"] <= found["max"] and found["runs"] >= 1
    assert results["machine"]["cores"] >= 1 and results["versions"]["torch"]
    for name, found in results["differences"].items():
        assert found <= (1e-6 if name.startswith("dpo") else 1e-5)


def test_bytes_in_the_profile_give_the_memory_ratio(results: dict[str, Any]) -> None:
    sides = results["profile"]["dpo_memory_ratio"]
    ours, theirs = (sum(sides[side].values()) for side in ("ours", "theirs"))
    assert results["dpo_memory_ratio"]["median"] == pytest.approx(ours / theirs)


def test_readme_shows_the_results(results: dict[str, Any]) -> None:
    readme = (BENCHMARKS / "README.md").read_text(encoding="utf-8")
    assert readme == with_table(readme, results)


def test_cost_figure_has_its_numbers_beside_it() -> None:
    costs = pd.read_csv(BENCHMARKS / "cost.csv")
    assert set(costs["scored"]) == set(COSTS) and set(costs["axis"]) == {"clips", "frames", "side"}
    assert (costs["min"] <= costs["median"]).all() and (costs["median"] <= costs["max"]).all()
    assert (BENCHMARKS / "cost.png").stat().st_size > 0


def test_a_readme_without_marks_is_refused() -> None:
    with pytest.raises(ValueError, match="needs the lines"):
        with_table("# Benchmarks\n", {})
