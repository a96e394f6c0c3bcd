"""What a rater sees, in which order and on which side: fixed by the study's settings and its seed.

Raters come in couples: the second sees every pair the other way round than the first.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import yaml
from pydantic import Field, ValidationError, model_validator

from icreward_lib.run.profile import Count, Group, Share
from icreward_lib.study.pairs import Pair
from icreward_lib.study.votes import CORRUPTED, Exclusion

Kind = Literal["practice", "trial", "attention", "repeat"]
Text = Annotated[str, Field(min_length=1, max_length=4000)]
Word = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_-]{0,31}$")]

CONSENT = (
    "You will see an image and short video clips that were made from it, and say which clip you find better. "
    "We store your answers under a number, with the time that each took. We ask for no name and use no "
    "cookies. You can stop at any time, go on later with the same link, and have your answers deleted."
)


class StudyError(ValueError):
    """A study that cannot be run; the message says what would be right."""


class Question(Group):
    """What raters are asked in one block of screens."""

    name: Word
    text: Text


class StudyConfig(Group):
    """The settings of a study. They are stored with the first link and cannot be changed afterwards."""

    title: Text = "Which clip is more faithful to the image?"
    consent: Text = CONSENT
    contact: str = Field(default="", max_length=200, description="whom raters can write to")
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0
    questions: list[Question] = Field(
        default=[Question(name="consistency", text="Which clip keeps what is in the image more faithfully?")],
        min_length=1,
        max_length=8,
        description="one block of screens each",
    )
    arms: list[str] = Field(default=[], description="arms to compare; empty: all of the pairs file")
    on_screen: Annotated[int, Field(ge=2, le=5, description="clips on a screen; above 2 they are ranked")] = 2
    pairs_per_rater: Count | None = Field(default=None, description="screens of a block, drawn in turn; null: all")
    practice: Annotated[int, Field(ge=0, le=10)] = 3
    attention_share: Share = Field(default=0.1, description="items with a known answer, as a share of the trials")
    repeat_share: Annotated[float, Field(ge=0, le=0.5, description="trials that are shown again, mirrored")] = 0.1
    exclusion: Exclusion = Exclusion()
    feedback: bool = Field(default=True, description="whether raters may write a remark after a choice")
    tags: list[Word] = Field(default=["subject", "background", "motion", "realism"], max_length=12)

    @model_validator(mode="after")
    def _distinct(self) -> StudyConfig:
        named = {"questions": [question.name for question in self.questions], "arms": self.arms, "tags": self.tags}
        for key, names in named.items():
            if len(set(names)) < len(names):
                raise ValueError(f"two of the {key} have one name")
        return self


def load_config(path: Path | None) -> StudyConfig:
    """Read a study's settings from YAML (or JSON, which is YAML); without a path, the defaults."""
    try:
        settings = yaml.safe_load(path.read_text(encoding="utf-8")) if path else None
        return StudyConfig.model_validate({} if settings is None else settings)
    except FileNotFoundError as error:
        raise StudyError(f"There is no file of study settings {path}.") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise StudyError(f"{path} is not valid YAML: {' '.join(str(error).split())}.") from error
    except ValidationError as error:
        raise StudyError(f"{path}: {first_problem(error)}.") from error


def first_problem(error: ValidationError) -> str:
    """What is wrong with the first wrong field, as one clause."""
    problem = error.errors()[0]
    return ": ".join([*filter(None, [".".join(map(str, problem["loc"]))]), problem["msg"]])


@dataclass(frozen=True)
class ArmClip:
    """A clip on a screen: its arm, its id in the votes, and the random name of its files."""

    arm: str
    video: str
    media: str


@dataclass(frozen=True)
class Item:
    """What is judged together: a pair, or several clips of one sample to rank."""

    name: str
    sample: str
    reference: str
    clips: tuple[ArmClip, ...]
    corrupted: ArmClip  # of the first clip


@dataclass(frozen=True)
class Screen:
    """One screen of one rater, with its clips from left to right."""

    kind: Kind
    question: str
    pair: str
    sample: str
    reference: str
    clips: tuple[ArmClip, ...]

    @property
    def answer(self) -> str | None:
        """The choice that is known to be right on practice and attention screens of two clips."""
        if self.kind not in ("practice", "attention") or len(self.clips) != 2:
            return None
        return "tie" if len(set(self.clips)) == 1 else "right" if self.clips[0].arm == CORRUPTED else "left"

    def allows(self, choice: str) -> bool:
        """Whether this is an answer to the screen: a side or "tie", or all positions, best first, as "1-0-2"."""
        if len(self.clips) == 2:
            return choice in ("left", "right", "tie")
        return sorted(choice.split("-")) == [str(position) for position in range(len(self.clips))]

    def passes(self, choice: str) -> bool:
        """Whether an answer to a practice or attention screen is right."""
        if self.answer is not None:
            return choice == self.answer
        return self.clips[int(choice.split("-")[-1])].arm == CORRUPTED


def items(config: StudyConfig, pairs: Sequence[Pair]) -> list[Item]:
    """What a study's raters judge. Raises `StudyError` if the pairs lack its arms."""
    known = {arm for pair in pairs for arm in (pair.arm_a, pair.arm_b)}
    if unknown := set(config.arms) - known:
        raise StudyError(f"The pairs have no arm '{min(unknown)}'; they have {', '.join(sorted(known))}.")
    arms = set(config.arms) or known
    found = [_item(pair) for pair in pairs if {pair.arm_a, pair.arm_b} <= arms]
    if config.on_screen > 2:
        found = _rankings(found, config.on_screen)
    if not found:
        raise StudyError(f"No sample has {config.on_screen} different clips of the arms {', '.join(sorted(arms))}.")
    return found


def _item(pair: Pair) -> Item:
    sides = (pair.arm_a, pair.video_a), (pair.arm_b, pair.video_b), (f"{pair.arm_a}/{CORRUPTED}", pair.corrupted)
    first, second, ruined = (ArmClip(arm, f"{pair.sample}/{arm}", path.stem) for arm, path in sides)
    return Item(pair.pair, pair.sample, pair.reference.name, (first, second), replace(ruined, arm=CORRUPTED))


def _rankings(couples: Sequence[Item], size: int) -> list[Item]:
    """An item for every `size` arms of a sample that all differ: those with a pair of any two of them."""
    found = []
    for sample in dict.fromkeys(item.sample for item in couples):
        own = [item for item in couples if item.sample == sample]
        clips = dict.fromkeys(clip for item in own for clip in item.clips)
        differing = {frozenset(item.clips) for item in own}
        for group in itertools.combinations(clips, size):
            if all(frozenset(two) in differing for two in itertools.combinations(group, 2)):
                first = next(item for item in own if item.clips[0] in group)  # whose ruined copy there is
                ordered = (first.clips[0], *(clip for clip in group if clip != first.clips[0]))
                found.append(replace(first, name=f"{sample}:{'+'.join(clip.arm for clip in group)}", clips=ordered))
    return found


def draw(config: StudyConfig, judged: Sequence[Item], rater: int) -> list[Screen]:
    """All screens of a rater (0, 1, ...): practice, then one block for each question."""
    couple = rater // 2
    count = min(config.pairs_per_rater or len(judged), len(judged))
    turn = np.random.default_rng([config.seed, 0]).permutation(len(judged))
    own = [judged[turn[(couple * count + position) % len(judged)]] for position in range(count)]
    rng = np.random.default_rng([config.seed, 1, rater])
    first = couple % len(config.questions)
    questions = [question.name for question in config.questions[first:] + config.questions[:first]]
    practised = [own[i] for i in rng.choice(len(own), config.practice)]
    screens = _checks("practice", questions[0], practised, rng)
    for block, question in enumerate(questions):
        screens += _block(config, question, own, rater, block)
    return screens


def _block(config: StudyConfig, question: str, own: Sequence[Item], rater: int, block: int) -> list[Screen]:
    couple, second = divmod(rater, 2)
    orders = list(itertools.permutations(range(config.on_screen)))
    # Within a rater, too, every order of the arms comes up equally often, give or take one.
    places = np.random.default_rng([config.seed, 2, couple, block]).permutation(len(own))
    rng = np.random.default_rng([config.seed, 3, rater, block])
    trials = []
    for position in rng.permutation(len(own)):
        order = orders[places[position] % len(orders)][:: -1 if second else 1]
        trials.append(_screen("trial", question, own[position], [own[position].clips[i] for i in order]))
    shares = config.repeat_share, config.attention_share
    repeats, checks = (max(1, round(share * len(own))) if share else 0 for share in shares)
    # Repeats close the block in the order of their trials, so that all others lie between the two.
    screens = trials + [replace(screen, kind="repeat", clips=screen.clips[::-1]) for screen in trials[:repeats]]
    for check in _checks("attention", question, [own[i] for i in rng.choice(len(own), checks)], rng):
        screens.insert(int(rng.integers(1, len(screens) + 1)), check)
    return screens


def _screen(kind: Kind, question: str, item: Item, clips: Sequence[ArmClip]) -> Screen:
    return Screen(kind, question, item.name, item.sample, item.reference, tuple(clips))


def _checks(kind: Kind, question: str, of: Sequence[Item], rng: np.random.Generator) -> list[Screen]:
    """Screens with a known answer: beside a ruined copy, left and right in turn, and every third the same twice."""
    start = 0 if kind == "practice" else int(rng.integers(3))
    screens = []
    for number, item in enumerate(of, start):
        if len(item.clips) > 2:
            ruined = [item.corrupted, *item.clips[1:]]
            clips = [ruined[i] for i in rng.permutation(len(ruined))]
        else:
            clips = [item.corrupted if number % 3 < 2 else item.clips[0], item.clips[0]][:: -1 if number % 3 else 1]
        screens.append(_screen(kind, question, item, clips))
    return screens
