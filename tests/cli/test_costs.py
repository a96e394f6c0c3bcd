"""Expected costs: counts against hand formulas, stages against the counts of their profile, the command line."""

from __future__ import annotations

from typing import Any

import pytest
from torch import nn

from icreward_lib.cli import counting
from icreward_lib.cli.costs import StageCost, costs, to_markdown
from icreward_lib.cli.main import main
from icreward_lib.rewards.backbone import LORA_TARGETS
from icreward_lib.run.profile import Profile, ProfileError, load_profile

pytestmark = pytest.mark.slow

TOKENS, WIDTH, CAPTION = 15 * 15 * 27, 1152, 300  # latents 15 x 30 x 53 in patches of 2 x 2


@pytest.fixture(scope="module")
def profile() -> Profile:
    return load_profile("paper")


def by_stage(changes: dict[str, Any] | None = None) -> dict[str, StageCost]:
    return {row.stage: row for row in costs(load_profile("paper", changes))}


def test_denoiser_is_counted_as_by_hand(profile: Profile) -> None:
    """A block: q k v and out, q and out of the caption's, 8 of the feed-forward; k v of the caption; attention."""
    maps = TOKENS * (4 + 2 + 8) * WIDTH**2 + CAPTION * 2 * WIDTH**2
    looked_up = 2 * TOKENS * WIDTH * CAPTION
    spatial, temporal = (2 * TOKENS * WIDTH * seen for seen in (15 * 27, 15))
    by_hand = 2 * 28 * (2 * (maps + looked_up) + spatial + temporal)
    assert counting.generator(profile.generation).denoise == pytest.approx(by_hand, rel=0.01)


def test_adapters_and_their_training_are_counted_as_by_hand(profile: Profile) -> None:
    rank, base = profile.dpo.lora_rank, counting.generator(profile.generation).denoise
    policy = counting.policy(profile.generation, rank)
    assert policy.adapters == 56 * rank * WIDTH * (4 + 2 + 2 + 3 + 2)
    # Frozen weights have no gradient: forwards, once more and backwards are 3 and a little, not 4.
    assert 3 * policy.denoise < policy.learn < 3.2 * policy.denoise
    assert 1.02 * base < policy.denoise < 1.06 * base


def test_language_model_is_counted_as_by_hand(profile: Profile) -> None:
    reader = counting.reader(profile.generation, 5, 8, 32, 64)
    assert (reader.groups, reader.tokens, reader.width) == (4, 135, 1536)
    linear = {
        name.split(".")[-1]: layer.weight.numel()
        for name, layer in counting.vlm().language_model.layers[0].named_modules()
        if isinstance(layer, nn.Linear)
    }
    assert set(linear) == set(LORA_TARGETS)
    by_hand = 2 * 28 * reader.length * (sum(linear.values()) + 2 * reader.length * 1536) + 2 * reader.length * (
        reader.adapters
    )
    assert reader.read == pytest.approx(by_hand, rel=0.01)
    assert 3 * reader.read < reader.learn.flops < 3.2 * reader.read
    assert 4e9 < reader.learn.held < 30e9  # 3 GB of the layers' inputs, and one layer


def test_vision_transformers_are_counted_as_published() -> None:
    """17.6 and 4.4 G multiply-adds an image of ViT-B/16 (timm's table) and of ViT-B/32."""
    assert counting.scored_frame().flops == pytest.approx(4 * 2 * 17.6e9, rel=0.02)
    assert counting.clip_frame().flops == pytest.approx(2 * 4.4e9, rel=0.02)
    assert counting.weights(counting.vlm()) == pytest.approx(2.21e9, rel=0.01)


def test_stages_follow_their_counts() -> None:
    """Each change doubles what it should, and leaves the other stages."""
    once = by_stage()
    doubled = {"data.samples": 600, "data.train": 360, "data.val": 80, "data.test": 160}
    more = by_stage(doubled)
    for stage in ("videos", "scores", "low_scores", "fvd_features", "real_features"):
        assert more[stage].flops == pytest.approx(2 * once[stage].flops, rel=1e-3), stage
        assert more[stage].gpu_memory == once[stage].gpu_memory, stage
    assert more["videos"].disk == 2 * once["videos"].disk
    assert more["new_samples"] == once["new_samples"]
    trained = by_stage({"dpo.seeds": 4, "icreward.seeds": 6})
    assert {stage for stage in once if trained[stage] != once[stage]} == {"dpo", "reward_icreward"}
    assert trained["dpo"].flops == 2 * once["dpo"].flops
    assert trained["reward_icreward"].disk == 2 * once["reward_icreward"].disk


def test_full_scale_needs_one_gpu(profile: Profile) -> None:
    rows = by_stage()
    assert rows["videos"].gpu_memory < 16e9
    assert max(row.gpu_memory for row in rows.values()) < 80e9
    steps = 1500 * 60 * counting.generator(profile.generation).denoise
    assert steps < rows["videos"].flops < 1.1 * steps
    assert rows["videos"].disk > 1500 * 15 * 4 * 30 * 53 * 4
    assert rows["vision_tokens"].disk == (1530 * 4 + 300) * 135 * 1536 * 4


def test_command_prints_the_table(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["costs", "--profile", "paper"]) == 0
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("|")]
    assert len({line.count("|") for line in lines}) == 1
    assert len(lines) == 2 + len(by_stage()) + 1 and "H100-hours" in lines[0] and "total" in lines[-1]


def test_hours_are_operations_over_what_is_used_of_the_peak() -> None:
    table = to_markdown([StageCost("a", "b", 36 * 10**14, 2, 3)], peak_flops={"GPU": 2e12}, utilisation=0.5)
    assert table.splitlines()[2].endswith("| 1.00 |")


@pytest.mark.fault
def test_other_models_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ProfileError, match="models.generator should name hpcai-tech/OpenSora-STDiT-v3"):
        costs(load_profile("laptop"))
    assert main(["costs", "--profile", "laptop"]) == 1
    assert "public models" in capsys.readouterr().err
