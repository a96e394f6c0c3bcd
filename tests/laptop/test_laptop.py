"""The small models: what they are taught, and that what is saved loads with each family's own loader."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import open_clip
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from transformers import (
    AutoTokenizer,
    Qwen2VLForConditionalGeneration,
    Qwen2VLProcessor,
    VideoMAEForVideoClassification,
    VideoMAEImageProcessor,
)

from icreward_lib.laptop import autoencoder, clip, qwen2_vl, videomae
from icreward_lib.laptop.changes import examples
from icreward_lib.laptop.loop import LoopConfig, degrade, fit
from icreward_lib.laptop.patch_targets import patch_targets
from icreward_lib.laptop.tokenizer import CHANGES, build_tokenizer, factors, tokenize
from icreward_lib.metrics.features import load_efficientnet_lite0
from icreward_lib.metrics.video_features import VideoMAEFeatures, videomae_pixels
from icreward_lib.rewards.prompt import SHORT_TEMPLATE
from icreward_lib.video import Video
from icreward_lib.world import content
from icreward_lib.world.scenes import Scene, render, sample_scenes

LOOP = LoopConfig(steps=2, lr=1e-3, muon_lr=0.01, warmup=1, ema=0.5, save_every=1)
CLIP = clip.ClipConfig(16, 32, vision_layers=1, text_width=32, text_layers=1, batch_size=4, trials=1, loop=LOOP)
MOTION = videomae.MotionConfig(16, layers=1, heads=2, patch_size=16, batch_size=2, judged=4, loop=LOOP)
VLM = qwen2_vl.VlmConfig(
    image_size=32, num_frames=4, vision_width=16, vision_layers=1,
    width=48, layers=1, heads=2, intermediate=32, batch_size=4, judged=16,
    tower_batch_size=3, tower=LOOP, loop=LOOP,
)  # fmt: skip
GROUPS = [VLM.frames[:2], VLM.frames[2:]]  # that share tokens


def scenes_of_both_splits(n: int) -> list[Scene]:
    return sample_scenes(n, seed=1) + sample_scenes(n, seed=1, split="unseen")


class TestText:
    @pytest.mark.property
    def test_captions_survive(self) -> None:
        tokenizer = build_tokenizer()
        for scene in scenes_of_both_splits(300):
            ids = tokenizer(scene.caption).input_ids
            assert tokenizer.unk_token_id not in ids
            assert ids[-1] == tokenizer.eos_token_id
            assert len(ids) <= clip.CONTEXT
            assert tokenizer.decode(ids, skip_special_tokens=True) == scene.caption

    def test_every_word_of_the_world_is_known(self) -> None:
        tokenizer = build_tokenizer(chat=True)
        words = " ".join((*content.SUBJECTS, *content.COLOURS, *content.PHOTOGRAPHS, SHORT_TEMPLATE.split("<|VQ")[0]))
        assert tokenizer.unk_token_id not in tokenizer(words.replace("{video}", " ")).input_ids
        assert tokenizer("zeppelin").input_ids == [tokenizer.unk_token_id]

    def test_chat_differs_only_in_how_a_text_ends(self) -> None:
        plain, chat = build_tokenizer(), build_tokenizer(chat=True)
        assert plain.get_vocab() == chat.get_vocab()
        assert plain("a red cup").input_ids[:-1] == chat("a red cup").input_ids
        assert chat.eos_token == "<|im_end|>"

    @pytest.mark.property
    def test_factors_reads_captions_back(self) -> None:
        for scene in scenes_of_both_splits(100):
            told = factors(scene.caption)
            assert (told["photograph"], told["camera"], told["subject"]) == (
                scene.photograph, scene.camera, scene.subject,
            )  # fmt: skip
            if scene.subject is not None:
                assert (told["first"], told["second"], told["motion"]) == (*scene.colours, scene.motion)
        assert factors("a red and") == {}


class TestTruth:
    """Frames pulled along the stated movement must become the next ones."""

    @staticmethod
    def errors(scene: Scene) -> tuple[float, float, float]:
        clips = render([scene])
        movement = patch_targets([scene], clips.masks, [[8, 9]], 64)[1]
        step = movement.view(64, 64, 2) / 16 * 2  # per frame, in units of the grid below
        line = (torch.arange(64) + 0.5) / 32 - 1
        grid = torch.stack(torch.meshgrid(line, line, indexing="xy"), -1)
        now, then = torch.from_numpy(clips.frames[0, 8:10]).permute(0, 3, 1, 2).float().split(1)
        pulled = [F.grid_sample(now, (grid - way * step)[None], align_corners=False) for way in (1, 0, -1)]
        errors = [float((then - frame)[..., 4:-4, 4:-4].abs().mean()) for frame in pulled]
        return errors[0], errors[1], errors[2]

    @pytest.mark.parametrize("camera", content.CAMERAS[1:])
    def test_background(self, camera: str) -> None:
        right, still, wrong = self.errors(replace(sample_scenes(1, seed=5)[0], subject=None, camera=camera))
        assert right < 0.5 * still < 0.5 * wrong

    @pytest.mark.parametrize("name", content.MOTIONS[1:])
    def test_subject(self, name: str) -> None:
        scene = sample_scenes(1, seed=7)[0]
        assert scene.subject
        right, still, wrong = self.errors(replace(scene, camera="static", motion=name, subject_amount=0.3))
        assert right < still < wrong


def test_perceptual_distance_grows_with_blur_and_is_zero_for_equal_frames() -> None:
    backbone = load_efficientnet_lite0()
    frames = autoencoder.clips(2, 3, num_frames=2).transpose(1, 2).flatten(0, 1)
    distances = [0.0]
    for side in (32, 16):
        blurred = F.interpolate(F.adaptive_avg_pool2d(frames, side), size=64, mode="bilinear").requires_grad_()
        distance = autoencoder.perceptual_distance(backbone, blurred, frames)
        distance.backward()  # type: ignore[no-untyped-call]
        assert blurred.grad is not None and blurred.grad.abs().sum() > 0
        distances.append(float(distance.detach()))
    assert float(autoencoder.perceptual_distance(backbone, frames, frames)) == pytest.approx(0, abs=1e-5)
    assert distances[0] < distances[1] < distances[2] < 20


def test_degrade_is_fixed_by_its_generator_and_share() -> None:
    clips = render(sample_scenes(6, seed=3), num_frames=3, size=32).frames
    once, twice = (degrade(clips, np.random.default_rng(4), share=0.5) for _ in range(2))
    np.testing.assert_array_equal(once, twice)
    touched = (once != clips).any(axis=(1, 2, 3, 4))
    assert 0 < touched.sum() < len(clips)
    np.testing.assert_array_equal(degrade(clips, np.random.default_rng(4), share=0.0), clips)


class TestChanges:
    def test_clips_show_what_is_said(self) -> None:
        shown = examples(60, [0, 16], 32, seed=2)
        before = sample_scenes(60, seed=2)
        assert set(CHANGES) == set(shown.changes)
        for index, (old, new, change) in enumerate(zip(before, shown.scenes, shown.changes, strict=True)):
            same = bool(np.array_equal(shown.clips[index, 0], shown.pictures[index]))
            assert same == (change == "nothing")
            assert (old.photograph != new.photograph) == (change == "elsewhere")
            assert (old.subject != new.subject) == (change in ("replaced", "removed"))
            assert (new.subject is None) == (old.subject is None or change == "removed")
            assert bool(set(old.colours) & set(new.colours)) == (change != "recoloured")
            assert not new.is_unseen

    def test_nameless_clips_show_what_has_no_name_and_change_like_the_others(self) -> None:
        shown = examples(60, [0, 16], 32, seed=2, nameless=0.5)
        assert 15 < shown.named.sum() < 45
        for index, (scene, change) in enumerate(zip(shown.scenes, shown.changes, strict=True)):
            assert (scene.photograph in content.PHOTOGRAPHS) == shown.named[index]
            assert scene.subject is None or (scene.subject in content.SUBJECTS) == shown.named[index]
            assert np.array_equal(shown.clips[index, 0], shown.pictures[index]) == (change == "nothing")
        assert set(CHANGES) == {change for change, named in zip(shown.changes, shown.named, strict=True) if not named}

    def test_drifting_clips_begin_like_their_picture(self) -> None:
        shown = examples(8, [0, 8, 16], 32, seed=2, drifting=4)
        assert shown.drifting.tolist() == [False] * 4 + [True] * 4
        np.testing.assert_array_equal(shown.clips[4:, 0], shown.pictures[4:])
        np.testing.assert_array_equal(shown.clips[4:, 2], render(shown.scenes[4:], size=32).frames[:, 16])


class TestClip:
    def test_open_clip_loads_it(self, tmp_path: Path) -> None:
        figures = clip.train(tmp_path / "run", tmp_path / "model", CLIP)
        assert {"seen_text_to_image", "unseen_text_to_image", "loss", "parameters"} <= set(figures)
        source = f"local-dir:{tmp_path / 'model'}"
        model, _, preprocess = open_clip.create_model_and_transforms(source, require_pretrained=True)
        tokenizer = open_clip.get_tokenizer(source)
        assert next(model.parameters()).dtype == torch.float32
        frames = render(sample_scenes(3, seed=9), num_frames=1).frames[:, 0]
        pictures = torch.stack([preprocess(Image.fromarray(frame)) for frame in frames])
        torch.testing.assert_close(pictures, clip.to_pixels(frames), atol=1e-5, rtol=0)
        texts = [scene.caption for scene in sample_scenes(3, seed=9)]
        torch.testing.assert_close(tokenizer(texts), tokenize(texts, clip.CONTEXT)[0])
        own_share = clip.build(CLIP)
        own_share.load_state_dict(model.state_dict())
        trained = clip.build(CLIP)
        fit(trained, clip.contrastive_loss(trained, CLIP), CLIP.loop, tmp_path / "run")  # finished: loads the weights
        for name, value in trained.state_dict().items():
            torch.testing.assert_close(own_share.state_dict()[name], value, atol=1e-3, rtol=1e-3)

    def test_a_resumed_run_equals_an_uninterrupted_one(self, tmp_path: Path) -> None:
        whole, parts = clip.build(CLIP), clip.build(CLIP)
        log = fit(whole, clip.contrastive_loss(whole, CLIP), LOOP, tmp_path / "whole")
        first = clip.build(CLIP)

        def interrupted(step: int) -> dict[str, torch.Tensor]:
            if step == 1:
                raise KeyboardInterrupt
            return clip.contrastive_loss(first, CLIP)(step)

        with pytest.raises(KeyboardInterrupt):
            fit(first, interrupted, LOOP, tmp_path / "parts")
        again = fit(parts, clip.contrastive_loss(parts, CLIP), LOOP, tmp_path / "parts")
        assert [row["loss"] for row in log] == [row["loss"] for row in again]
        for name, value in whole.state_dict().items():
            torch.testing.assert_close(parts.state_dict()[name], value, atol=0, rtol=0)


class TestMotion:
    def test_transformers_and_the_metric_load_it(self, tmp_path: Path) -> None:
        folder = tmp_path / "model"
        figures = videomae.train(tmp_path / "run", folder, MOTION)
        assert {"seen_camera", "seen_motion", "unseen_camera", "unseen_motion"} <= set(figures)
        model = VideoMAEForVideoClassification.from_pretrained(folder)
        assert model.dtype == torch.float32
        assert list(model.config.id2label.values()) == list(videomae.LABELS)
        clips = render(sample_scenes(2, seed=4)).frames
        pixels = videomae.to_pixels(clips)
        videos = [Video(frames, 8.0) for frames in clips]
        torch.testing.assert_close(videomae_pixels(videos, num_frames=16, size=64), pixels, atol=1e-5, rtol=0)
        processor = VideoMAEImageProcessor.from_pretrained(folder)
        processed = processor([list(frames[1:]) for frames in clips], return_tensors="pt").pixel_values
        torch.testing.assert_close(processed, pixels, atol=1e-4, rtol=0)
        with torch.no_grad():
            states = model.videomae(pixels).last_hidden_state.mean(1)
        np.testing.assert_allclose(VideoMAEFeatures(folder).features(videos), states, atol=1e-5)

    def test_labels(self) -> None:
        scene = replace(sample_scenes(1, seed=0)[0], camera="zooms in", motion="spins", subject="cup")
        cameras, motions = videomae.to_labels([scene, replace(scene, subject=None)])
        assert [videomae.LABELS[i] for i in cameras] == ["the camera zooms in"] * 2
        assert [videomae.LABELS[7 + i] for i in motions] == ["the subject spins", "no subject"]

    def test_movements_follow_the_models_token_order(self) -> None:
        scene = replace(sample_scenes(1, seed=0)[0], camera="static", motion="moves right", subject="cup",
                        position=(0.2, 0.7), size=0.3, subject_amount=0.1)  # fmt: skip
        flow = videomae.movements([scene], render([scene]).masks, 8).view(4, 8, 8, 2)
        moving = flow[..., 0] > 0.03  # frame sizes per clip, times coverage
        rows, columns = torch.nonzero(moving.any(0), as_tuple=True)
        assert rows.float().mean() > 4.5
        assert columns.float().mean() < 2.5


class TestVlm:
    @pytest.fixture(scope="class")
    def folder(self, tmp_path_factory: pytest.TempPathFactory) -> Path:
        path = tmp_path_factory.mktemp("vlm")
        figures = qwen2_vl.train(path / "run", path / "model", VLM)
        wanted = {"subject", "first", "second", "motion", "photograph", "camera", "scenery", "change"}
        assert {f"{split}_{name}" for split in ("seen", "unseen") for name in wanted} <= set(figures)
        return path / "model"

    def test_transformers_loads_it(self, folder: Path) -> None:
        model = Qwen2VLForConditionalGeneration.from_pretrained(folder)
        assert model.dtype == torch.float32
        assert model.lm_head.weight is model.model.language_model.embed_tokens.weight
        assert isinstance(Qwen2VLProcessor.from_pretrained(folder).tokenizer, type(build_tokenizer()))
        assert AutoTokenizer.from_pretrained(folder).get_vocab() == build_tokenizer().get_vocab()

    def test_the_processor_and_the_whole_model_agree_with_the_training(self, folder: Path) -> None:
        model = Qwen2VLForConditionalGeneration.from_pretrained(folder)
        processor = Qwen2VLProcessor.from_pretrained(folder)
        shown = examples(1, VLM.frames, VLM.image_size, seed=3)
        text = processor.apply_chat_template(qwen2_vl.CHANGE_CHAT, add_generation_prompt=True)
        video = torch.from_numpy(shown.clips[0]).permute(0, 3, 1, 2)
        picture = torch.from_numpy(shown.pictures[0]).permute(2, 0, 1)
        inputs = processor(text=[text], videos=[video], images=[picture], return_tensors="pt")
        inputs.pop("mm_token_type_ids")
        task = qwen2_vl.VlmPretraining(model, VLM)
        with torch.no_grad():
            embeddings, labels = task.embed(qwen2_vl.CHANGE_CHAT, [""], *task.encode(shown.clips, shown.pictures))
            positions = torch.arange(embeddings.shape[1]).expand(3, 1, -1)
            own_share = model(inputs_embeds=embeddings, position_ids=positions).logits
            theirs = model(**inputs, position_ids=positions).logits
            said = model.generate(**inputs, max_new_tokens=3, min_new_tokens=3, do_sample=False)
            expected = own_share[:, -1].argmax(-1)
        assert (labels == -100).all()
        torch.testing.assert_close(own_share, theirs, atol=1e-5, rtol=1e-5)
        assert said[0, embeddings.shape[1]] == expected[0] or expected[0] == processor.tokenizer.eos_token_id

    def test_an_answer_does_not_see_its_batch(self, folder: Path) -> None:
        task = qwen2_vl.VlmPretraining(Qwen2VLForConditionalGeneration.from_pretrained(folder), VLM)
        shown = examples(2, VLM.frames, VLM.image_size, seed=5)
        answers = ["yes<|im_end|>", "no, the subject is recoloured<|im_end|>"]
        with torch.no_grad():
            videos, pictures = task.encode(shown.clips, shown.pictures)
            both = task.answer_loss(*task.embed(qwen2_vl.CHANGE_CHAT, answers, videos, pictures))
            one, two = (
                task.answer_loss(
                    *task.embed(qwen2_vl.CHANGE_CHAT, [answers[i]], videos[i : i + 1], pictures[i : i + 1])
                )
                for i in range(2)
            )
        torch.testing.assert_close(both, (2 * one + 7 * two) / 9)  # tokens of each answer

    def test_thumbs_stand_at_their_tokens(self) -> None:
        clips = np.zeros((1, 4, 32, 32, 3), np.uint8)
        clips[0, 2:, 16:20, 4:8, 1] = 255  # second group, token in row 1 and column 0, its pixel (0, 1), green
        thumbs = qwen2_vl._thumbs(clips, [[0, 1], [2, 3]], 2).unflatten(1, (2, 2, 2)).unflatten(-1, (3, 4, 4))
        assert thumbs[0, 1, 1, 0, 1, 0, 1] == 1
        assert (thumbs == -1).sum() == thumbs.numel() - 1

    def test_the_probe_is_asked_where_the_subject_is(self) -> None:
        task = qwen2_vl.VlmPretraining(qwen2_vl.build(VLM), VLM)
        shown = examples(2, VLM.frames, VLM.image_size, seed=5)
        tokens = torch.randn(2, 2 * 2 * 2, VLM.width, generator=torch.Generator().manual_seed(0))
        with torch.no_grad():
            task.probe.weight.normal_(generator=torch.Generator().manual_seed(1))
            clips = render(shown.scenes, size=32).frames
            bare = task.probe_loss(tokens, shown.scenes, clips, np.zeros_like(shown.masks), GROUPS)
            covered = task.probe_loss(tokens, shown.scenes, clips, np.ones_like(shown.masks), GROUPS)
            dark = task.probe_loss(tokens, shown.scenes, np.zeros_like(clips), np.ones_like(shown.masks), GROUPS)
        assert bare != covered != dark
