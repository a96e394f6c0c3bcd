"""What raters see: balanced, mirrored, the same for ever."""

from collections import Counter
from dataclasses import astuple
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.standins_study import imagined

from icreward_lib.study.protocol import Question, Screen, StudyConfig, StudyError, draw, load_config

configs = st.builds(
    StudyConfig,
    seed=st.integers(0, 2**31 - 1),
    pairs_per_rater=st.none() | st.integers(1, 12),
    on_screen=st.integers(2, 4),
    questions=st.integers(1, 3).map(lambda n: [Question(name=f"q{i}", text="Which?") for i in range(n)]),
)


def of_kind(screens: list[Screen], kind: str, question: str) -> list[tuple[int, Screen]]:
    return [(i, screen) for i, screen in enumerate(screens) if (screen.kind, screen.question) == (kind, question)]


@pytest.mark.property
@settings(deadline=None, max_examples=40)
@given(configs, st.integers(1, 15), st.integers(1, 5))
def test_every_pair_is_shown_equally_often_each_way(config: StudyConfig, pairs: int, couples: int) -> None:
    judged = imagined(pairs, config.on_screen)
    before: Counter[tuple[str, str, str]] = Counter()
    for rater in range(2 * couples):
        for screen in draw(config, judged, rater):
            if screen.kind == "trial":
                before.update(
                    (screen.question, a.video, b.video)
                    for i, a in enumerate(screen.clips)
                    for b in screen.clips[i + 1 :]
                )
    assert all(before[question, b, a] == times for (question, a, b), times in before.items())


@pytest.mark.property
@settings(deadline=None, max_examples=40)
@given(configs, st.integers(1, 15), st.integers(0, 30))
def test_a_rater_sees_each_pair_once_and_repeats_mirrored_and_far_away(
    config: StudyConfig, pairs: int, rater: int
) -> None:
    judged = imagined(pairs, config.on_screen)
    screens = draw(config, judged, rater)
    count = min(config.pairs_per_rater or pairs, pairs)
    assert [screen.kind for screen in screens[: config.practice]] == ["practice"] * config.practice
    for question in config.questions:
        trials = of_kind(screens, "trial", question.name)
        positions = {screen.pair: (i, screen) for i, screen in trials}
        assert len(positions) == len(trials) == count
        repeats = of_kind(screens, "repeat", question.name)
        assert len(repeats) == max(1, round(0.1 * count))
        for position, repeat in repeats:
            first, trial = positions[repeat.pair]
            assert repeat.clips == trial.clips[::-1]
            assert position - first >= count
        attention = of_kind(screens, "attention", question.name)
        assert len(attention) == max(1, round(0.1 * count))
        for _, check in attention:
            assert any(screen.passes(choice) for screen, choice in [(check, c) for c in choices(check)])


def choices(screen: Screen) -> list[str]:
    if len(screen.clips) == 2:
        return ["left", "right", "tie"]
    return ["-".join(str((k + first) % len(screen.clips)) for k in range(len(screen.clips))) for first in range(5)]


@pytest.mark.property
@settings(deadline=None, max_examples=20)
@given(configs, st.integers(2, 12), st.integers(0, 9))
def test_a_rater_has_one_order_for_ever_and_of_their_own(config: StudyConfig, pairs: int, rater: int) -> None:
    judged = imagined(pairs, config.on_screen)
    assert draw(config, judged, rater) == draw(config, judged, rater)
    several = {tuple(map(astuple, draw(config, judged, other))) for other in range(6)}
    assert len(several) > 1


def test_the_draw_is_the_same_in_every_release() -> None:
    """A change of these would change the order of studies that are planned, though not of those begun."""
    screens = draw(StudyConfig(seed=7), imagined(4), 3)
    assert " ".join(f"{screen.kind}:{screen.pair}:{screen.clips[0].arm}" for screen in screens) == (
        "practice:p1:corrupted practice:p1:arm0 practice:p0:arm0 "
        "trial:p1:arm1 trial:p0:arm1 trial:p3:arm0 "
        "attention:p2:arm0 trial:p2:arm0 repeat:p1:arm0"
    )


def test_raters_share_the_pairs_when_each_sees_some() -> None:
    config = StudyConfig(pairs_per_rater=5)
    seen = Counter(s.pair for rater in range(8) for s in draw(config, imagined(10), rater) if s.kind == "trial")
    assert set(seen.values()) == {4} and len(seen) == 10


def test_each_arm_is_on_the_left_half_of_the_time_for_every_rater() -> None:
    for rater in range(10):
        trials = [s for s in draw(StudyConfig(), imagined(20), rater) if s.kind == "trial"]
        assert sum(s.clips[0].arm == "arm0" for s in trials) == 10


def test_practice_has_all_three_answers() -> None:
    screens = draw(StudyConfig(), imagined(4), 0)[:3]
    assert {screen.answer for screen in screens} == {"left", "right", "tie"}


def test_settings_come_from_yaml(tmp_path: Path) -> None:
    path = tmp_path / "study.yaml"
    path.write_text("seed: 3\nquestions:\n  - name: motion\n    text: Which moves better?\n")
    assert load_config(path).questions[0].name == "motion"
    assert load_config(None) == StudyConfig()


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("sed: 3", "sed: Extra inputs"),
        ("seed: x", "seed: Input should be"),
        ("attention_share: 2", "attention_share"),
        ("questions: []", "questions"),
        ("tags: [subject, subject]", "two of the tags have one name"),
        ("a: [", "not valid YAML"),
    ],
)
def test_wrong_settings_are_refused_in_a_sentence(tmp_path: Path, text: str, sentence: str) -> None:
    path = tmp_path / "study.yaml"
    path.write_text(text)
    with pytest.raises(StudyError, match=sentence) as caught:
        load_config(path)
    assert "\n" not in str(caught.value)
