"""Scoring one's own videos: judges, rankings, the command line, Python."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from support.scored import Counting, moving, picture, write_scene
from support.tiny_vlm import build_vlm

import icreward_lib
from icreward_lib.cli.main import main
from icreward_lib.metrics.clip import ClipSim, clipsim
from icreward_lib.metrics.features import EfficientNetLite0Features
from icreward_lib.metrics.vbench import ConsistencyScorer
from icreward_lib.poster import reward_models
from icreward_lib.poster.reward_models import Trained
from icreward_lib.rewards.base import ClipScores
from icreward_lib.rewards.domain import Domain, domain_features
from icreward_lib.rewards.ensemble import ROBUST, Ensemble, cautious
from icreward_lib.rewards.icreward import ICRewardModel
from icreward_lib.rewards.lite import ICRewardLite, LiteConfig
from icreward_lib.rewards.mlp import MLPReward, MLPRewardConfig
from icreward_lib.rewards.prompt import ICRewardConfig
from icreward_lib.run import start
from icreward_lib.run.files import write_json
from icreward_lib.run.models import CHECKOUT
from icreward_lib.run.stages import ACCOUNT, Stage
from icreward_lib.score import judges as judges_module
from icreward_lib.score.intake import IntakeError
from icreward_lib.score.judges import OpenedReward, load_reward, open_reward
from icreward_lib.score.ranking import rank_videos, ranks
from icreward_lib.video import Video, read_video, write_video

SMALL = ICRewardConfig(num_frames=4, head_size=16, head_attention=2, lora_rank=2, lora_alpha=4)
CLIP = CHECKOUT / "checkpoints/laptop/open-clip"


@pytest.fixture(scope="module")
def rewards(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Folders of every kind of saved reward, by kind."""
    root = tmp_path_factory.mktemp("rewards")
    base = build_vlm(root / "vlm")
    members = [ICRewardModel.create(base, SMALL, seed=seed) for seed in range(2)]
    clip = ClipSim(CLIP)
    ICRewardLite(LiteConfig(input_size=64, head_size=16), seed=0).save_pretrained(root / "lite")
    MLPReward(MLPRewardConfig(features=128, hidden=8), clip, base=str(CLIP), seed=0).save_pretrained(root / "mlp")
    members[0].save_pretrained(root / "icreward")
    Ensemble(members, caution=1).save_pretrained(root / "ensemble")
    return {name: root / name for name in ("lite", "mlp", "icreward", "ensemble")}


@pytest.fixture
def domain(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A world of coffee alone in place of the sticker world."""
    frames = np.stack([np.asarray(Image.fromarray(frame).resize((64, 64))) for frame in moving("coffee").frames])
    seen = domain_features(EfficientNetLite0Features(), frames)
    mean, basis = seen.mean(0), np.eye(seen.shape[1], dtype=np.float32)
    Domain(mean, basis, seen - mean, threshold=1.0).save_pretrained(tmp_path / "domain")
    monkeypatch.setattr(judges_module, "locate", lambda name: tmp_path / "domain")


@pytest.fixture(scope="module")
def vbench() -> OpenedReward:
    return open_reward("vbench")


# Judges


def test_vbench_is_the_mean_of_both_dimensions_of_its_formulas(vbench: OpenedReward) -> None:
    image, videos = picture(), [moving(), moving(speed=6), moving("coffee")]
    expected = ConsistencyScorer(EfficientNetLite0Features(128)).score(image, videos)
    for k, scores in enumerate(vbench.score_clips(image, videos)):
        parts = {name: float(expected[name][k]) for name in ("subject", "background")}
        assert dict(scores.dimensions) == pytest.approx(parts, abs=1e-6)
        assert scores.overall == pytest.approx(np.mean(list(parts.values())), abs=1e-6)
        frames = (expected["subject_frames"][k] + expected["background_frames"][k]) / 2
        assert scores.frames == pytest.approx(frames, abs=1e-6)


def test_vbench_encodes_what_is_equal_once(vbench: OpenedReward, monkeypatch: pytest.MonkeyPatch) -> None:
    encoded = []
    encode = EfficientNetLite0Features.__call__

    def counted(self: EfficientNetLite0Features, frames: np.ndarray) -> Any:
        encoded.append(len(frames))
        return encode(self, frames)

    monkeypatch.setattr(EfficientNetLite0Features, "__call__", counted)
    frozen = Video(np.repeat(picture()[None], 8, axis=0), 8)
    # Other frame rates make other clips, but no other frames.
    vbench.score_clips(picture(), [moving(), moving(fps=12), frozen])
    assert sum(encoded) == 1 + 8


def test_clipsim_sees_with_the_small_model_what_that_was_trained_on(domain: None) -> None:
    clip, image, video = ClipSim(CLIP), picture(), moving(speed=3)
    small = [np.asarray(Image.fromarray(frame).resize((64, 64))) for frame in (image, *video.frames)]
    features = clip.image_features(np.stack(small))
    (scores,) = open_reward(f"clipsim={CLIP}").score_clips(image, [video])
    assert scores.overall == pytest.approx(float(clipsim(features[0], features[1:], include_first=True)), abs=1e-6)
    assert scores.frames == pytest.approx(np.clip(features[1:] @ features[0], 0, 1), abs=1e-6)
    assert dict(scores.dimensions) == {} and scores.maps is None


def test_what_has_learned_on_a_small_world_alone_says_so(rewards: dict[str, Path], domain: None) -> None:
    known, strange = open_reward(f"mlp={rewards['mlp']}").score_clips(
        picture("coffee"), [moving("coffee"), moving("astronaut")]
    )
    assert known.warnings == ()
    assert len(strange.warnings) == 1 and strange.warnings[0].startswith("out of domain")
    lite = open_reward(f"icreward={rewards['lite']}").score_clips(picture("astronaut"), [moving("astronaut")])
    assert lite[0].warnings == ()


@pytest.mark.parametrize(
    ("kind", "made"), [("lite", ICRewardLite), ("mlp", MLPReward), ("icreward", ICRewardModel), ("ensemble", Ensemble)]
)
def test_a_folder_tells_which_reward_it_holds(
    rewards: dict[str, Path], domain: None, kind: str, made: type[Any]
) -> None:
    reward = load_reward(rewards[kind])
    assert type(reward) is made
    video = moving(height=64)
    (scores,) = open_reward(f"icreward={rewards[kind]}").score_clips(picture(height=64), [video])
    expected = reward.score(picture(height=64), [video])  # of 64 x 64 pixels, so that nothing is squashed
    assert scores.overall == pytest.approx(float(expected.overall[0]), abs=1e-6)
    assert scores.frames == pytest.approx(expected.frames[0], abs=1e-6)
    assert set(scores.dimensions) == {"subject", "background"}


@pytest.mark.parametrize("kind", ["lite", "icreward"])
def test_maps_come_when_asked_for(rewards: dict[str, Path], kind: str) -> None:
    video = moving(height=64)
    (scores,) = open_reward(f"icreward={rewards[kind]}", maps=True).score_clips(picture(height=64), [video])
    assert scores.maps is not None and len(scores.maps) == video.num_frames
    assert scores.maps.min() >= 0 and scores.maps.max() <= 1
    (plain,) = open_reward(f"icreward={rewards[kind]}").score_clips(picture(height=64), [video])
    assert plain.maps is None and plain.overall == scores.overall


@pytest.mark.fault
def test_what_is_no_whole_reward_is_refused_in_a_sentence(rewards: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="config.json is missing"):
        load_reward(tmp_path)
    with pytest.raises(FileNotFoundError, match="no folder nowhere"):
        open_reward("icreward=nowhere")
    with pytest.raises(ValueError, match="there is no judge 'vbnch'"):
        open_reward("vbnch")
    with pytest.raises(ValueError, match="efficientnet-lite0 or dino-dreamsim"):
        open_reward("vbench=resnet")
    with pytest.raises(ValueError, match="model of type bert"):
        (tmp_path / "config.json").write_text('{"model_type": "bert"}')
        load_reward(tmp_path)
    for kind in ("lite", "mlp"):
        broken = shutil.copytree(rewards[kind], rewards[kind].with_name(f"broken-{kind}"), dirs_exist_ok=True)
        os.truncate(broken / "model.safetensors", 100)
        with pytest.raises(ValueError, match="holds no whole reward"):
            load_reward(broken)


def finished_stage(output: Path, name: str, key: str, models: dict[str, Path]) -> Stage:
    folder = output / ".cache" / "smoke" / name / key
    folder.mkdir(parents=True, exist_ok=True)
    stage = Stage(name, key, folder)
    for item, source in models.items():
        with stage.write(item) as new:
            shutil.copytree(source, new)
    stage.save_json(ACCOUNT, {})
    return stage


def record(output: Path, results: str, name: str, stage: Stage) -> None:
    """What a notebook records of a reward."""
    rows = pd.DataFrame({"sample": [0], "video": [0], "split": ["test"], "unseen": [False], "label": [0.5]})
    rewards = {name: reward_models.published(Trained(name, [], [], np.zeros((1, 1)), rows, stage))}
    write_json(output / "results" / results / f"{stage.name}.json", {"rewards": rewards, "provenance": {}})


def test_a_profile_names_the_reward_of_its_published_run(rewards: dict[str, Path], output: Path) -> None:
    with pytest.raises(FileNotFoundError, match="make reproduce PROFILE=smoke"):
        open_reward("icreward=smoke")
    stage = finished_stage(output, "reward_icreward", "published", {"model_0": rewards["lite"]})
    write_json(output / "results/smoke/table.json", [{"no": "mapping"}])
    write_json(output / "results/smoke/other.json", {"rewards": ["of another kind"]})
    with pytest.raises(FileNotFoundError, match="no trained reward 'icreward'"):
        open_reward("icreward=smoke")
    record(output, "smoke", "icreward", stage)
    assert open_reward("icreward=smoke").identity == open_reward(f"icreward={rewards['lite']}").identity
    with pytest.raises(FileNotFoundError, match="no trained reward 'mlp'"):
        open_reward("mlp=smoke")
    shutil.rmtree(stage.folder)
    with pytest.raises(FileNotFoundError, match="make reproduce"):
        open_reward("icreward=smoke")


def test_a_run_with_changes_does_not_take_over(rewards: dict[str, Path], output: Path) -> None:
    record(output, "smoke", "icreward", finished_stage(output, "reward_icreward", "a", {"model_0": rewards["lite"]}))
    changed = finished_stage(output, "reward_icreward", "b", {"model_0": rewards["icreward"]})
    assert start("03_icreward", "smoke", **{"icreward.epochs": 7}).results.name == "smoke-changed"
    record(output, "smoke-changed", "icreward", changed)
    assert open_reward("icreward=smoke").identity == open_reward(f"icreward={rewards['lite']}").identity


def test_robust_is_the_cautious_ensemble_of_all_trainings(rewards: dict[str, Path], output: Path) -> None:
    base = str(rewards["icreward"].with_name("vlm"))
    members = [ICRewardModel.create(base, SMALL, seed=seed) for seed in (3, 4)]
    stage = Stage(ROBUST, "key", output / f".cache/smoke/{ROBUST}/key")
    for number, member in enumerate(members):
        # In their place at once: what they build on is named relative to it.
        member.save_pretrained(stage.path(f"model_{number}"))
        kept = shutil.copytree(stage.path(f"model_{number}"), output / f"{number}")
        with stage.write(f"model_{number}") as new:
            shutil.copytree(kept, new)
    stage.save_json(ACCOUNT, {})
    record(output, "smoke", "robust", stage)
    image, video = picture(height=64), moving(height=64)
    (scores,) = open_reward("robust=smoke").score_clips(image, [video])
    overall = np.stack([member.score(image, [video]).overall for member in members])
    assert scores.overall == pytest.approx(float(cautious(overall, 1.0)[0]), abs=1e-6)
    assert scores.overall == pytest.approx(scores.frames.mean(), abs=1e-6)


def test_an_identity_is_that_of_the_weights_wherever_they_lie(rewards: dict[str, Path], tmp_path: Path) -> None:
    moved = shutil.copytree(rewards["lite"], tmp_path / "moved")
    first = open_reward(f"icreward={rewards['lite']}").identity
    assert open_reward(f"icreward={moved}").identity == first
    ICRewardLite(LiteConfig(input_size=64, head_size=16), seed=1).save_pretrained(tmp_path / "other")
    assert open_reward(f"icreward={tmp_path / 'other'}").identity != first


def test_a_picture_of_another_shape_is_compared_by_its_middle(vbench: OpenedReward) -> None:
    wide = np.concatenate([picture(width=32), picture(), picture(width=32)], axis=1)
    plain, cut = vbench.score_clips(picture(), [moving()])[0], vbench.score_clips(wide, [moving()])[0]
    assert cut.overall == plain.overall and plain.warnings == ()
    assert cut.warnings == ("the picture is 8:3, the clip 4:3: compared with the middle of the picture",)


CLIPS = [moving(), moving(speed=5), moving("coffee"), moving(frames=5), moving(height=32), moving(fps=24, speed=2)]


@pytest.fixture(scope="module")
def judged_alone(vbench: OpenedReward, rewards: dict[str, Path]) -> list[tuple[OpenedReward, list[ClipScores]]]:
    judges = [vbench, open_reward(f"icreward={rewards['lite']}")]
    return [(judge, [scores for clip in CLIPS for scores in judge.score_clips(picture(), [clip])]) for judge in judges]


@pytest.mark.property
@settings(max_examples=5, deadline=None)
@given(order=st.lists(st.integers(0, len(CLIPS) - 1), min_size=2, max_size=6))
def test_a_score_does_not_depend_on_who_else_is_judged(
    judged_alone: list[tuple[OpenedReward, list[ClipScores]]], order: list[int]
) -> None:
    for judge, alone in judged_alone:
        together = judge.score_clips(picture(), [CLIPS[place] for place in order])
        for place, scores in zip(order, together, strict=True):
            assert scores.overall == pytest.approx(alone[place].overall, abs=1e-5)
            assert scores.frames == pytest.approx(alone[place].frames, abs=1e-5)
            assert scores.warnings == alone[place].warnings


# Rankings


@pytest.mark.property
@given(st.lists(st.one_of(st.none(), st.floats(0, 1).map(lambda score: round(score, 2)))))
def test_equal_scores_share_the_better_rank(scores: list[float | None]) -> None:
    known = [score for score in scores if score is not None]
    expected = [None if score is None else 1 + sum(other > score for other in known) for score in scores]
    assert ranks(scores) == expected


def test_a_ranking_as_json_has_what_other_tools_read(tmp_path: Path, vbench: OpenedReward) -> None:
    reference, videos = write_scene(tmp_path)
    copy = Path(shutil.copy(videos[0], tmp_path / "copy.mp4"))
    broken = tmp_path / "broken.mp4"
    broken.write_text("no video")
    ranking = rank_videos(reference, [broken, *videos, copy], [vbench])
    found = ranking.to_json()
    assert list(found) == ["reference", "reward", "videos"]
    assert (found["reference"], found["reward"]) == (str(reference), "vbench")
    *scored, failed = found["videos"]
    assert set(failed) == {"path", "error"} and failed["path"] == str(broken) and "broken.mp4" in failed["error"]
    assert [video["rank"] for video in scored] == [1, 1, 3, 4]
    assert {Path(video["path"]).name for video in scored[:2]} == {"slow.mp4", "copy.mp4"}
    assert Path(scored[3]["path"]).name == "other.mp4"
    for video in scored:
        assert set(video) == {"path", "rank", "overall", "subject", "background", "frames", "warnings"}
        assert len(video["frames"]) == 8 and all(0 <= score <= 1 for score in video["frames"])
        assert video["overall"] == pytest.approx((video["subject"] + video["background"]) / 2, abs=2e-6)
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    bounded = rank_videos(reference, [broken, *videos, copy], [vbench], keep_clips=False)
    assert bounded.to_json() == found and all(entry.clip is None for entry in bounded.entries)
    assert all(entry.clip is not None for entry in ranking.entries[:-1])


def test_several_judges_stand_side_by_side_and_the_first_ranks(
    tmp_path: Path, vbench: OpenedReward, rewards: dict[str, Path]
) -> None:
    reference, videos = write_scene(tmp_path)
    lite = open_reward(f"icreward={rewards['lite']}")
    found = rank_videos(reference, videos, [lite, vbench]).to_json()
    alone = {video["path"]: video for video in rank_videos(reference, videos, [vbench]).to_json()["videos"]}
    assert found["reward"] == lite.name
    for video in found["videos"]:
        assert list(video["scores"]) == [lite.name, "vbench"]
        assert video["scores"][lite.name]["overall"] == video["overall"]
        assert video["scores"]["vbench"]["overall"] == alone[video["path"]]["overall"]
    overall = [video["overall"] for video in found["videos"]]
    assert overall == sorted(overall, reverse=True)


def test_a_warning_says_whose_it_is_unless_it_is_everybodys(
    tmp_path: Path, vbench: OpenedReward, rewards: dict[str, Path], domain: None
) -> None:
    reference, videos = write_scene(tmp_path)
    Image.fromarray(picture(width=96)).save(reference)
    mlp = open_reward(f"mlp={rewards['mlp']}")
    (found,) = rank_videos(reference, videos[:1], [vbench, mlp]).to_json()["videos"]
    middle, strange = found["warnings"]
    assert middle.startswith("the picture is 2:1") and strange.startswith(f"{mlp.name}: out of domain")


def test_a_clip_that_a_judge_cannot_judge_leaves_the_others_alone(tmp_path: Path, vbench: OpenedReward) -> None:
    reference, videos = write_scene(tmp_path)
    write_video(tmp_path / "still.mp4", moving(frames=1))
    found = rank_videos(reference, [tmp_path / "still.mp4", *videos], [vbench]).to_json()["videos"]
    assert [video.get("rank") for video in found] == [1, 2, 3, None]
    assert "still.mp4: vbench: " in found[-1]["error"] and "at least 2" in found[-1]["error"]


def test_few_frames_and_other_rates_are_warned_of(
    tmp_path: Path, vbench: OpenedReward, rewards: dict[str, Path]
) -> None:
    reference, videos = write_scene(tmp_path)
    write_video(tmp_path / "short.mp4", moving(frames=5, fps=24))
    paths = [videos[0], tmp_path / "short.mp4"]
    found = {Path(v["path"]).stem: v["warnings"] for v in rank_videos(reference, paths, [vbench]).to_json()["videos"]}
    assert any("only 5 frames" in text for text in found["short"])
    assert not any("only" in text for text in found["slow"])
    assert all(any("8 to 24 a second" in text for text in texts) for texts in found.values())
    other = rank_videos(reference, paths, [open_reward(f"icreward={rewards['lite']}")]).to_json()["videos"]
    assert not any("a second" in text for video in other for text in video["warnings"])


def test_a_reference_that_cannot_be_read_stops_a_ranking(tmp_path: Path, vbench: OpenedReward) -> None:
    _, videos = write_scene(tmp_path)
    with pytest.raises(IntakeError, match="nothing.png"):
        rank_videos(tmp_path / "nothing.png", videos, [vbench])


# The command line


def test_the_table_is_aligned_and_ranked_and_all_is_well(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    reference, videos = write_scene(tmp_path)
    assert main(["score", str(reference), *map(str, videos), "--with", "vbench"]) == 0
    shown = capsys.readouterr()
    title, header, *lines = shown.out.splitlines()
    assert "ranked by vbench" in title and header.split() == ["rank", "overall", "subject", "background", "video"]
    assert [line.split()[0] for line in lines] == ["1", "2", "3"]
    assert len({line.index(str(tmp_path)) for line in lines}) == 1
    assert lines[0].endswith("slow.mp4") and lines[2].endswith("other.mp4") and shown.err == ""


def test_json_is_one_object_and_names_may_hold_anything(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    reference, videos = write_scene(tmp_path / 'it\'s "mine", 你好 ✨')
    assert main(["score", str(reference), *map(str, videos), "--with", "vbench", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["reference"] == str(reference)
    assert {video["path"] for video in found["videos"]} == set(map(str, videos))


@pytest.mark.fault
def test_a_name_cannot_drive_the_terminal(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    reference, videos = write_scene(tmp_path)
    evil = videos[0].rename(tmp_path / "a\x1b[2J\nb.mp4")
    missing = tmp_path / "c\x1b[2J.mp4"
    assert main(["score", str(reference), str(evil), str(missing), "--with", "vbench"]) == 3
    shown = capsys.readouterr()
    assert "\x1b" not in shown.out + shown.err and "a?[2J?b.mp4" in shown.out and "c?[2J.mp4" in shown.err


@pytest.mark.fault
def test_exit_codes_tell_all_some_and_none(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    reference, videos = write_scene(tmp_path)
    broken = tmp_path / "broken.mp4"
    broken.write_bytes(videos[0].read_bytes()[:500])
    command = ["score", "--with", "vbench"]
    assert main([*command, str(reference), str(broken), str(videos[0])]) == 3
    shown = capsys.readouterr()
    assert "slow.mp4" in shown.out and "broken.mp4" not in shown.out and "broken.mp4" in shown.err
    assert main([*command, str(reference), str(broken)]) == 1
    assert main([*command, str(broken), str(videos[0])]) == 1
    assert main(["score", str(reference), str(videos[0]), "--with", "vbench", "--max-frames", "4"]) == 1
    capsys.readouterr()
    assert main([*command[:1], "--with", "nobody", str(reference), str(videos[0])]) == 1
    assert "there is no judge 'nobody'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "give a reference picture and videos"),
        (["r.png"], "at least one video"),
        (["r.png", "a.mp4", "--csv", "t.csv"], "not both"),
        (["r.png", "a.mp4", "--out", "o.jsonl"], "--out goes with --csv"),
        (["--csv", "t.csv", "--report", "r.html"], "--report goes with"),
        (["--csv", "t.csv", "--out", "o.txt"], "ends in .jsonl or .csv"),
        (["--csv", "t.csv", "--out", "./t.csv"], "would replace the table"),
        (["r.png", "a.mp4", "--with", "vbench,"], "not a list of different names"),
        (["r.png", "a.mp4", "--with", "vbench,vbench"], "not a list of different names"),
        (["r.png", "a.mp4", "--max-frames", "0"], "not a positive whole number"),
    ],
)
def test_wrong_usage_is_explained(words: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["score", *words])
    assert ended.value.code == 2 and said in capsys.readouterr().err


def test_warnings_stand_below_the_table_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    reference, videos = write_scene(tmp_path)
    Image.fromarray(picture(width=96)).save(reference)
    assert main(["score", str(reference), *map(str, videos), "--with", "vbench"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line for line in lines if line.startswith("!")] == [
        "! the picture is 2:1, the clip 4:3: compared with the middle of the picture (all videos)"
    ]


@pytest.mark.e2e
def test_the_report_is_written(tmp_path: Path, rewards: dict[str, Path], capsys: pytest.CaptureFixture[str]) -> None:
    reference, videos = write_scene(tmp_path)
    command = ["score", str(reference), *map(str, videos), "--with", f"icreward={rewards['lite']}"]
    assert main([*command, "--report", str(tmp_path / "report.html")]) == 0
    assert "slow.mp4" in (tmp_path / "report.html").read_text(encoding="utf-8")
    assert main([*command, "--report", str(reference / "report.html")]) == 1
    assert "cannot be written" in capsys.readouterr().err


def test_help_is_quick_and_says_what_a_newcomer_needs() -> None:
    code = (
        "import sys; from icreward_lib.__main__ import main\n"
        "try: main(['score', '--help'])\n"
        "except SystemExit: print('loaded', sorted({'torch', 'scipy', 'av', 'pandas'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "loaded []"
    for words in ("icreward score reference.png a.mp4", "exit codes: 0", "vbench", "clipsim", "--max-pixels", "--csv"):
        assert words in done.stdout


# Python


def test_the_library_scores_files_and_arrays_alike(tmp_path: Path, rewards: dict[str, Path]) -> None:
    reference, videos = write_scene(tmp_path)
    reward = icreward_lib.ICReward.from_pretrained(rewards["lite"])
    files = reward.score(reference, videos)
    in_memory = [read_video(path) for path in videos]
    for clips in (in_memory, [video.frames for video in in_memory]):
        arrays = reward.score(picture(), clips)
        assert [scores.overall for scores in arrays] == pytest.approx([v.overall for v in files], abs=0.02)
        assert [len(scores.frames) for scores in arrays] == [8, 8, 8]
    assert reward.score(str(reference), [str(videos[2])])[0].overall == pytest.approx(files[2].overall, abs=1e-6)


@pytest.mark.fault
def test_the_library_refuses_what_it_cannot_score(tmp_path: Path, rewards: dict[str, Path]) -> None:
    reference, videos = write_scene(tmp_path)
    reward = icreward_lib.ICReward.from_pretrained(rewards["lite"])
    with pytest.raises(IntakeError, match="nothing.mp4"):
        reward.score(reference, [videos[0], tmp_path / "nothing.mp4"])
    with pytest.raises(ValueError, match="must be a list"):
        reward.score(reference, str(videos[0]))
    with pytest.raises(ValueError, match=r"uint8 \(H, W, 3\)"):
        reward.score(picture().astype(np.float32), [moving()])
    with pytest.raises(ValueError, match="uint8"):
        reward.score(picture(), [moving().frames.astype(np.float32)])
    with pytest.raises(AttributeError, match="no attribute 'ICRewards'"):
        icreward_lib.ICRewards  # noqa: B018


def test_importing_the_library_loads_nothing() -> None:
    code = "import sys, icreward_lib; print(sorted({'torch', 'numpy', 'icreward_lib.score'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_judge_that_is_interrupted_stops_everything(tmp_path: Path, vbench: OpenedReward) -> None:
    reference, videos = write_scene(tmp_path)
    with pytest.raises(KeyboardInterrupt):
        rank_videos(reference, videos, [Counting(vbench, patience=2)])
