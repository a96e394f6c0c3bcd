"""Flow-DPO: pairs, the loss and its invariants, training that resumes exactly."""

import copy
import math

import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from peft import get_peft_model_state_dict
from support.small_dpo import CHANNELS, CONFIG, FRAMES, SIZE, TEXT, TOKENS, denoiser, pair_data
from torch import nn

from icreward_lib.dpo import (
    DPOConfig,
    PairData,
    add_denoiser_lora,
    build_pairs,
    dpo_loss,
    flow_errors,
    implicit_reward_logit,
    reference_model,
    train,
)
from icreward_lib.dpo.training import _batch, evaluation_errors, evaluation_timesteps
from icreward_lib.generators.opensora.flow import RectifiedFlow
from icreward_lib.run.profile import GenerationSettings


def swapped(pairs: PairData) -> PairData:
    return PairData(**{**vars(pairs), "winner": pairs.loser, "loser": pairs.winner})


def tuned(policy, seed: int = 1):
    """Adapters with an effect."""
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in policy.named_parameters():
        if "lora_B" in name:
            parameter.data = 0.3 * torch.randn(parameter.shape, generator=generator)
    return policy


def draws(pairs: PairData, seed: int = 5):
    generator = torch.Generator().manual_seed(seed)
    n = len(pairs)
    return (
        torch.arange(n),
        torch.randn(pairs.winner.shape, generator=generator),
        1000 * torch.rand(n, generator=generator),
    )


def logits(policy, pairs: PairData, beta: float = 100.0) -> torch.Tensor:
    with reference_model(policy), torch.no_grad():
        reference = flow_errors(policy, pairs, *draws(pairs))
    return implicit_reward_logit(flow_errors(policy, pairs, *draws(pairs)), reference, beta)


# Pairs


def test_pairs_by_hand():
    icreward = [[0.9, 0.1, 0.5], [0.2, 0.8, 0.3], [0.4, 0.4, 0.1]]
    mlp = [[0.1, 0.2, 0.8], [0.1, 0.9, 0.2], [0.1, 0.6, 0.2]]
    motion = [[1.0, 0.0, 3.0], [0.0, 0.0, 0.0], [0.0, 0.0, 0.0]]
    pairs = build_pairs(icreward, mlp, motion=motion)
    assert (pairs.comparisons, pairs.identical, pairs.even, pairs.repeated) == (3, 1, 1, 0)
    (row,) = pairs.table.to_dict(orient="records")
    assert (row["sample"], row["winner"], row["loser"], row["subsets"]) == (0, 0, 2, 1)
    assert row["margin"] == pytest.approx(0.4) and row["baseline_margin"] == pytest.approx(-0.7)
    assert row["winner_score"] == 0.9 and row["loser_score"] == 0.5
    assert row["winner_baseline"] == 0.1 and row["loser_baseline"] == 0.8
    assert row["motion_gap"] == -2.0


def test_subsets_give_more_pairs_and_account_for_every_comparison():
    rng = np.random.default_rng(0)
    icreward, mlp = rng.random((40, 5)), rng.random((40, 5))
    whole, subsets = build_pairs(icreward, mlp), build_pairs(icreward, mlp, subset=3)
    assert subsets.comparisons == 40 * math.comb(5, 3)
    for pairs in (whole, subsets):
        assert pairs.comparisons == pairs.identical + pairs.even + pairs.repeated + len(pairs.table)
        assert (pairs.table["margin"] > 0).all() and (pairs.table["baseline_margin"] < 0).all()
    assert len(subsets.table) > 2 * len(whole.table)
    keys = subsets.table[["sample", "winner", "loser"]]
    assert not keys.duplicated().any()
    reverse = keys.rename(columns={"winner": "loser", "loser": "winner"})[["sample", "winner", "loser"]]
    assert keys.merge(reverse).empty  # no contradictions
    assert subsets.table["subsets"].sum() == len(subsets.table) + subsets.repeated


def test_agreeing_rewards_make_no_pair():
    scores = np.random.default_rng(0).random((7, 5))
    pairs = build_pairs(scores, scores)
    assert pairs.table.empty and pairs.identical == 7
    assert list(pairs.table) == list(build_pairs(scores, 1 - scores).table)
    with pytest.raises(ValueError, match="no pairs"):
        gathered(pairs.table, n=7)


@pytest.mark.parametrize("change", [{"subset": 1}, {"subset": 6}, {"motion": np.zeros((3, 4))}])
def test_bad_scores_are_refused(change):
    scores = np.random.default_rng(0).random((3, 5))
    with pytest.raises(ValueError):
        build_pairs(scores, 1 - scores, **change)


def gathered(table: pd.DataFrame, n: int) -> PairData:
    generator = torch.Generator().manual_seed(0)
    latents = torch.randn(n, 5, CHANNELS, FRAMES, SIZE, SIZE, generator=generator)
    text, mask = torch.zeros(n, TOKENS, TEXT), torch.ones(n, TOKENS)
    shape = GenerationSettings.model_construct(num_frames=17, height=64, width=64, fps=8.0)
    return PairData.gather(table, latents, text, mask, shape)


def test_gather_takes_the_right_latents_and_shares_the_image():
    table = pd.DataFrame({"sample": [2, 0], "winner": [1, 3], "loser": [4, 0]})
    data = gathered(table, n=3)
    latents = torch.randn(3, 5, CHANNELS, FRAMES, SIZE, SIZE, generator=torch.Generator().manual_seed(0))
    assert torch.equal(data.winner[0, :, 1:], latents[2, 1, :, 1:])
    assert torch.equal(data.loser[1, :, 1:], latents[0, 0, :, 1:])
    assert torch.equal(data.winner[:, :, 0], data.loser[:, :, 0])
    assert torch.equal(data.winner[0, :, 0], latents[2, 0, :, 0])


# The loss


def test_loss_is_ln_2_at_the_start_exactly():
    pairs = pair_data()
    policy = add_denoiser_lora(denoiser(), rank=2, alpha=4, seed=0)
    start = dpo_loss(logits(policy, pairs))
    assert torch.equal(start, -F.logsigmoid(torch.zeros(len(pairs))))
    assert start.tolist() == pytest.approx([math.log(2)] * len(pairs), abs=1e-7)


def test_loss_by_hand():
    policy, reference = torch.tensor([[1.0, 2.0]]), torch.tensor([[1.5, 1.5]])
    logit = implicit_reward_logit(policy, reference, beta=4.0)
    assert logit.tolist() == [2.0]  # -(4 / 2) (-0.5 - 0.5)
    assert dpo_loss(logit).tolist() == pytest.approx([math.log(1 + math.exp(-2.0))])


def test_swapping_the_sides_negates_the_logit():
    pairs, policy = pair_data(), tuned(add_denoiser_lora(denoiser(), rank=2, alpha=4, seed=0))
    forward, backward = logits(policy, pairs), logits(policy, swapped(pairs))
    assert forward.abs().max() > 1e-2
    torch.testing.assert_close(forward, -backward, atol=1e-5, rtol=0)


def test_equal_sides_have_no_gradient():
    pairs = pair_data()
    same = PairData(**{**vars(pairs), "loser": pairs.winner})
    policy = tuned(add_denoiser_lora(denoiser(), rank=2, alpha=4, seed=0))

    def gradient(pairs: PairData) -> float:
        policy.zero_grad()
        dpo_loss(logits(policy, pairs)).mean().backward()
        return max(float(p.grad.abs().max()) for p in policy.parameters() if p.requires_grad)

    assert gradient(same) < 1e-5 * gradient(pairs)


def test_adapters_off_is_the_frozen_model():
    pairs, model = pair_data(), denoiser()
    frozen = copy.deepcopy(model)
    policy = tuned(add_denoiser_lora(model, rank=2, alpha=4, seed=0))
    with torch.no_grad():
        expected = flow_errors(frozen, pairs, *draws(pairs))
        assert not torch.allclose(flow_errors(policy, pairs, *draws(pairs)), expected)
        with reference_model(policy):
            assert torch.equal(flow_errors(policy, pairs, *draws(pairs)), expected)


def test_only_the_attention_adapters_learn():
    policy = add_denoiser_lora(denoiser(), rank=2, alpha=4, seed=0)
    layers = {
        n.split(".lora_")[0].removeprefix("base_model.model.") for n, p in policy.named_parameters() if p.requires_grad
    }
    expected = {"attn.qkv", "attn.proj", "cross_attn.q_linear", "cross_attn.kv_linear", "cross_attn.proj"}
    assert layers == {f"{kind}_blocks.0.{name}" for kind in ("spatial", "temporal") for name in expected}
    frozen = [n for n, p in policy.named_parameters() if not p.requires_grad]
    assert not any("lora" in name for name in frozen)


def test_adapters_start_from_the_seed_alone():
    torch.manual_seed(1)
    first = dict(add_denoiser_lora(denoiser(), rank=2, alpha=4, seed=0).named_parameters())
    torch.manual_seed(2)
    second = dict(add_denoiser_lora(denoiser(), rank=2, alpha=4, seed=0).named_parameters())
    other = dict(add_denoiser_lora(denoiser(), rank=2, alpha=4, seed=1).named_parameters())
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert any(not torch.equal(first[name], other[name]) for name in first)


class Spy(nn.Module):
    """Predicts zero velocity and keeps what it was given."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))

    def forward(self, x, timestep, y, mask=None, x_mask=None, **size):
        self.seen = {"x": x, "timestep": timestep, "y": y, "mask": mask, "x_mask": x_mask, **size}
        return torch.cat([x * self.weight, x], dim=1)  # the second half is the unused sigma


def test_error_is_a_mean_and_leaves_the_image_out():
    pairs = pair_data()
    spy = Spy()
    errors = flow_errors(spy, pairs, *draws(pairs))
    rows, noise, _ = draws(pairs)
    expected = (pairs.winner - noise)[:, :, 1:].square().mean(dim=(1, 2, 3, 4))
    torch.testing.assert_close(errors[:, 0], expected)

    def doubled(latents):  # the same content over twice the width: a sum would double
        return latents.repeat(1, 1, 1, 1, 2)

    wide = PairData(**{**vars(pairs), "winner": doubled(pairs.winner), "loser": doubled(pairs.loser)})
    torch.testing.assert_close(flow_errors(spy, wide, rows, doubled(noise), draws(pairs)[2]), errors)

    noise = noise.clone()
    noise[:, :, 0] += 100.0
    torch.testing.assert_close(flow_errors(spy, pairs, rows, noise, draws(pairs)[2]), errors)


def test_both_sides_share_noise_timestep_image_and_text():
    pairs, spy = pair_data(), Spy()
    rows, noise, timestep = draws(pairs)
    flow_errors(spy, pairs, rows, noise, timestep)
    seen, n = spy.seen, len(pairs)
    level = (timestep / 1000).view(-1, 1, 1, 1, 1)
    torch.testing.assert_close(seen["x"][:n, :, 1:], ((1 - level) * pairs.winner + level * noise)[:, :, 1:])
    torch.testing.assert_close(seen["x"][n:, :, 1:], ((1 - level) * pairs.loser + level * noise)[:, :, 1:])
    assert torch.equal(seen["x"][:n, :, 0], pairs.winner[:, :, 0]) and torch.equal(
        seen["x"][:n, :, 0], seen["x"][n:, :, 0]
    )
    assert torch.equal(seen["timestep"], timestep.repeat(2))
    text = pairs.text[pairs.sample]
    assert torch.equal(seen["y"][:n, 0], text) and torch.equal(seen["y"][n:, 0], text)
    assert seen["x_mask"].tolist() == [[False, True, True]] * 2 * n


# Training


def trained(folder, config=CONFIG, **stop):
    policy = add_denoiser_lora(denoiser(), rank=config.lora_rank, alpha=config.lora_alpha, seed=config.seed)
    history = train(
        policy, RectifiedFlow(), pair_data(8, drift=0.5), pair_data(6, seed=9, drift=0.5), config, folder, **stop
    )
    return policy, history


def test_accuracy_rises_on_a_preference_that_can_be_learned(tmp_path):
    _, history = trained(tmp_path)
    accuracy = [row["accuracy"] for row in history.curve]
    assert [row["step"] for row in history.curve] == [0, 4, 8, 12]
    assert accuracy[0] == 0.5 and accuracy[-1] > 0.8
    assert history.steps[0]["loss"] == pytest.approx(math.log(2), abs=1e-6) and history.steps[-1]["loss"] < 0.6
    assert all(row["low"] <= row["accuracy"] <= row["high"] and row["n_pairs"] == 6 for row in history.curve)
    assert {row["t"] for row in history.bins} == {row["t"] for row in history.bins if row["step"] == 0}
    assert len(history.bins) == 4 * CONFIG.eval_timesteps and len(history.outcomes) == 4 * 6
    assert all(row["d_winner"] == row["d_loser"] == 0.0 for row in history.bins if row["step"] == 0)
    assert np.mean([row["d_loser"] - row["d_winner"] for row in history.bins if row["step"] == 12]) > 0


@pytest.mark.slow
def test_supervised_training_learns_the_winners_whatever_the_losers(tmp_path):
    config = DPOConfig(**{**vars(CONFIG), "objective": "supervised"})
    _, history = trained(tmp_path, config)
    rise = {side: np.mean([row[side] for row in history.bins if row["step"] == 12]) for side in ("d_winner", "d_loser")}
    assert rise["d_winner"] < 0
    assert history.steps[0]["loss"] != pytest.approx(math.log(2), abs=1e-3), "the flow's own loss"
    _, preferred = trained(tmp_path / "preference")
    assert rise["d_winner"] < np.mean([row["d_winner"] for row in preferred.bins if row["step"] == 12])


@pytest.mark.slow
@pytest.mark.fault
def test_a_stopped_run_resumes_to_the_same_numbers(tmp_path):
    class Stop(Exception):
        pass

    def stop_at_8(row):
        if row["step"] == 8:
            raise Stop

    policy, history = trained(tmp_path / "whole")
    with pytest.raises(Stop):
        trained(tmp_path / "stopped", report=stop_at_8)
    reported = []
    resumed_policy, resumed = trained(tmp_path / "stopped", report=lambda row: reported.append(row["step"]))
    assert resumed == history
    assert reported == [8, 12], "what was reported before the stop, but not kept by then, is reported again"
    state = get_peft_model_state_dict(policy)
    again = get_peft_model_state_dict(resumed_policy)
    assert all(torch.equal(state[name], again[name]) for name in state)

    rows = []
    finished_policy, finished = trained(tmp_path / "whole", report=rows.append)  # nothing left to do
    assert finished == history and rows == []
    again = get_peft_model_state_dict(finished_policy)
    assert all(torch.equal(state[name], again[name]) for name in state)


@pytest.mark.slow
def test_micro_batches_change_memory_only(tmp_path):
    _, whole = trained(tmp_path / "a")
    _, parts = trained(tmp_path / "b", DPOConfig(**{**vars(CONFIG), "micro_batch": 3}))
    assert [r["loss"] for r in parts.steps] == pytest.approx([r["loss"] for r in whole.steps], abs=1e-4)
    assert [r["logit"] for r in parts.curve] == pytest.approx([r["logit"] for r in whole.curve], abs=1e-3)


def test_the_evaluation_of_a_pair_depends_on_no_other_pair(tmp_path):
    policy = tuned(add_denoiser_lora(denoiser(), rank=2, alpha=4, seed=0))
    pairs = pair_data(5)
    first = PairData(**{**vars(pairs), **{k: getattr(pairs, k)[:2] for k in ("sample", "winner", "loser")}})
    timesteps = torch.tensor([100.0, 900.0])
    errors = evaluation_errors(policy, timesteps, pairs, CONFIG)
    assert errors.shape == (5, 2, 2)
    torch.testing.assert_close(errors[:2], evaluation_errors(policy, timesteps, first, CONFIG))


def test_evaluation_timesteps_follow_the_training_distribution():
    config = DPOConfig(eval_timesteps=4)
    levels = evaluation_timesteps(
        RectifiedFlow(use_timestep_transform=False, sample_method="uniform"), pair_data(), config
    )
    assert levels.tolist() == pytest.approx([125, 375, 625, 875], abs=20)
    shifted = evaluation_timesteps(RectifiedFlow(), pair_data(), config)  # small clips are trained at low noise
    assert (shifted.diff() > 0).all() and shifted.median() < 300


def test_every_pair_is_seen_once_an_epoch():
    config = DPOConfig(batch_size=3, seed=4)
    rows = torch.cat([_batch(9, config, step) for step in range(6)])
    assert sorted(rows[:9].tolist()) == sorted(rows[9:].tolist()) == list(range(9))
    assert rows[:9].tolist() != rows[9:].tolist()


@pytest.mark.fault
def test_foreign_and_damaged_checkpoints_are_refused(tmp_path):
    trained(tmp_path)
    with pytest.raises(ValueError, match="differs in beta: delete it"):
        trained(tmp_path, DPOConfig(**{**vars(CONFIG), "beta": 1.0}))
    checkpoint = tmp_path / "dpo_state.pt"
    checkpoint.write_bytes(checkpoint.read_bytes()[:1000])
    with pytest.raises(ValueError, match="damaged"):
        trained(tmp_path)


def test_impossible_settings_are_refused():
    with pytest.raises(ValueError, match="beta"):
        DPOConfig(beta=0.0)
