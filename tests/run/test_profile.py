"""Profiles: the shipped ones load; a mistake is one sentence that names file, key and remedy."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from pydantic import BaseModel

from icreward_lib.run.profile import PROFILES, Profile, ProfileError, load_profile, profile_names


def test_shipped_profiles_load_and_laptop_has_the_poster_counts() -> None:
    assert profile_names() == ["laptop", "paper", "smoke"]
    data = load_profile("laptop").data
    assert (data.samples, data.videos_per_sample, data.low_score_additions) == (300, 5, 30)
    assert (data.train, data.val, data.test) == (180, 40, 80)
    study = load_profile("laptop").study
    assert (study.raters, study.showcase) == (20, 3)
    assert load_profile("smoke").data.samples < 20


def test_no_key_of_a_shipped_profile_is_doubled() -> None:
    """YAML takes the last of two equal keys without a word."""
    for name in profile_names():
        text = (PROFILES / f"{name}.yaml").read_text(encoding="utf-8")
        lines = [line.split("#")[0].rstrip() for line in text.splitlines()]
        keys = [line for line in lines if ":" in line]
        leaves = [key for key, value in _leaves(yaml.safe_load(text))]
        groups = [line for line in keys if line.endswith(":")]
        assert len(keys) == len(leaves) + len(groups), name


def _leaves(tree: dict[str, object]) -> list[tuple[str, object]]:
    found = []
    for key, value in tree.items():
        found += _leaves(value) if isinstance(value, dict) else [(key, value)]
    return found


@pytest.mark.parametrize(
    ("changes", "parts"),
    [
        ({"icreward.epoch": 3}, ["icreward.epoch", "did you mean 'epochs'"]),
        ({"sede": 3}, ["'sede'", "did you mean 'seed'"]),
        ({"study.zzz": 3}, ["study.zzz", "raters, showcase"]),
        ({"data.train": "180"}, ["data.train", "'180'", "integer"]),
        ({"seed": 1.5}, ["seed", "1.5", "integer"]),
        ({"seed": True}, ["seed", "True", "integer"]),
        ({"mlp.lr": "1e-4"}, ["mlp.lr", "write 1.0e-04"]),
        ({"mlp.lr": float("nan")}, ["mlp.lr", "finite"]),
        ({"mlp.lr": 0.0}, ["mlp.lr", "greater than 0"]),
        ({"mlp.hidden": 0}, ["mlp.hidden", "greater than or equal to 1"]),
        ({"dpo.subset": 6}, ["dpo.subset (6)", "data.videos_per_sample (5)"]),
        ({"data.unseen_share": 1.5}, ["data.unseen_share", "less than or equal to 1"]),
        ({"data.train": 181}, ["data", "samples (300)", "301"]),
        ({"generation.num_frames": 25}, ["generation.num_frames", "25", "multiple of 17"]),
        ({"generation.height": 61}, ["generation.height", "multiple of 2"]),
        ({"labels.subject_weight": 0.6}, ["labels", "must be 1"]),
        ({"icreward.num_frames": 18}, ["icreward.num_frames (18)", "generation.num_frames (17)"]),
        ({"dpo.eval_every": 1000, "dpo.steps": 80}, ["eval_every (1000)", "steps (80)"]),
        ({"study.showcase": 81}, ["showcase (81)", "data.test (80)"]),
        ({"mlp": 3}, ["'mlp'", "group of hidden, lr"]),
        ({"seed.x": 3}, ["seed.x", "single value"]),
        ({"models.labels": "dino"}, ["models.labels", "'efficientnet-lite0'"]),
    ],
)
def test_a_wrong_setting_is_refused_in_one_sentence(changes: dict[str, object], parts: list[str]) -> None:
    with pytest.raises(ProfileError) as caught:
        load_profile("laptop", changes)
    message = str(caught.value)
    assert "\n" not in message
    for part in parts:
        assert part in message


def test_changes_reach_their_setting_and_nothing_else() -> None:
    changed = load_profile("laptop", {"icreward.epochs": 3, "seed": 7})
    assert (changed.icreward.epochs, changed.seed) == (3, 7)
    assert changed.mlp == load_profile("laptop").mlp
    assert load_profile("laptop").seed != 7


def test_unknown_profile_lists_the_known_ones(tmp_path: Path) -> None:
    with pytest.raises(ProfileError, match="no profile 'paper1'; there are laptop, paper, smoke"):
        load_profile("paper1")
    with pytest.raises(ProfileError, match="no profile file"):
        load_profile(tmp_path / "none.yaml")


def test_a_file_of_ones_own_is_called_like_its_file(tmp_path: Path) -> None:
    own = tmp_path / "mine.yaml"
    text = (PROFILES / "smoke.yaml").read_text(encoding="utf-8")
    own.write_text(text, encoding="utf-8")
    assert load_profile(own).name == "mine"
    own.write_text(text + "\nname: other\n", encoding="utf-8")
    with pytest.raises(ProfileError, match="mine.yaml: remove the key 'name'"):
        load_profile(own)
    own.write_text(text.replace("  raters: 4\n", ""), encoding="utf-8")
    with pytest.raises(ProfileError, match=r"mine\.yaml: the key 'study\.raters' is missing"):
        load_profile(own)


@pytest.mark.fault
@pytest.mark.parametrize("text", ["- a\n- b\n", "a: [1\n", "", "\x00"])
def test_a_file_that_is_no_profile(tmp_path: Path, text: str) -> None:
    own = tmp_path / "mine.yaml"
    own.write_text(text, encoding="utf-8")
    with pytest.raises(ProfileError, match="mine.yaml"):
        load_profile(own)


def test_every_field_is_explained() -> None:
    """A reader of the schema should not have to guess what a number counts."""
    plain = {"lr", "weight_decay", "epochs", "name"}  # mean what they mean everywhere

    def unexplained(group: type[BaseModel]) -> list[str]:
        found = []
        for name, field in group.model_fields.items():
            if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
                assert field.annotation.__doc__
                found += unexplained(field.annotation)
            elif field.description is None and name not in plain:
                found.append(f"{group.__name__}.{name}")
        return found

    assert unexplained(Profile) == []
