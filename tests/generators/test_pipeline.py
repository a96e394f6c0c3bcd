import json

import numpy as np
import pytest
import support
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast, T5Config, T5EncoderModel

from icreward_lib.generators.opensora.autoencoder import VideoAutoencoder
from icreward_lib.generators.opensora.flow import RectifiedFlow
from icreward_lib.generators.opensora.pipeline import OpenSoraPipeline, fit_image, to_frames, to_tensor
from icreward_lib.generators.opensora.text import add_scores, clean_caption, encode_captions
from icreward_lib.generators.opensora.transformer import STDiT3

REFERENCE = support.REFERENCE / "opensora"
IMAGES = torch.load(REFERENCE / "image.pt", weights_only=True)
CAPTIONS = json.loads((REFERENCE / "text.json").read_text())
SETTINGS = dict(num_frames=17, height=16, width=12, fps=8, num_inference_steps=3, guidance_scale=3.0)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def randomise(model: torch.nn.Module, scale: float) -> None:
    generator = seeded(5)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * scale)


def tiny_pipeline() -> OpenSoraPipeline:
    words = Tokenizer(models.WordLevel({"<pad>": 0, "</s>": 1, "<unk>": 2, "a": 3, "cat": 4}, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    words.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, pad_token="<pad>", eos_token="</s>", unk_token="<unk>")
    text_encoder = T5EncoderModel(
        T5Config(vocab_size=5, d_model=16, d_kv=8, d_ff=16, num_layers=1, num_heads=2, dropout_rate=0.0)
    ).eval()
    vae = VideoAutoencoder(
        latent_channels=6,
        spatial_block_out_channels=(4, 8, 8),
        spatial_layers_per_block=1,
        spatial_latent_channels=3,
        spatial_norm_num_groups=2,
        spatial_mid_block_add_attention=False,
        temporal_filters=8,
        temporal_num_res_blocks=1,
        temporal_channel_multipliers=(1, 1, 2),
        temporal_downsample=(True, True),
        temporal_norm_num_groups=4,
        latent_shift=[0.1] * 6,
        latent_scale=[2.0] * 6,
    ).eval()
    transformer = STDiT3(
        input_sq_size=16,
        in_channels=6,
        patch_size=(1, 1, 1),
        hidden_size=16,
        depth=1,
        num_heads=2,
        pred_sigma=False,
        caption_channels=16,
        model_max_length=6,
    )
    for model, scale in ((text_encoder, 0.5), (vae, 0.2), (transformer, 0.3)):
        randomise(model, scale)
    return OpenSoraPipeline(text_encoder, tokenizer, vae, transformer, RectifiedFlow(base_size=16))


@pytest.fixture(scope="module")
def pipeline() -> OpenSoraPipeline:
    return tiny_pipeline()


@pytest.fixture(scope="module")
def image() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (20, 20, 3), dtype=np.uint8)


@pytest.mark.parity
@pytest.mark.parametrize("name", list(IMAGES))
def test_image_is_fitted_as_upstream(name):
    reference = IMAGES[name]
    height, width = reference["cropped"].shape[:2]
    fitted = fit_image(reference["input"].numpy(), height, width)
    np.testing.assert_array_equal(fitted, reference["cropped"].numpy())
    torch.testing.assert_close(to_tensor(fitted[None])[:, 0], reference["tensor"])


@pytest.mark.parity
@pytest.mark.parametrize("case", CAPTIONS, ids=range(len(CAPTIONS)))
def test_captions_are_scored_and_cleaned_as_upstream(case):
    names = {"aes": "aesthetic", "flow": "motion", "camera_motion": "camera"}
    scored = add_scores(case["raw"], **{names[name]: value for name, value in case["scores"].items()})
    assert scored == case["with_scores"]
    assert clean_caption(scored) == case["cleaned"]


def test_a_score_is_not_added_twice():
    once = add_scores("a cat", aesthetic=6.5)
    assert add_scores(once, aesthetic=4.0) == once


def test_captions_become_features(pipeline):
    parts = (pipeline.text_encoder, pipeline.tokenizer)
    features, mask = encode_captions(*parts, ["A CAT", "a cat a cat a cat a cat"], 6)
    assert features.shape == (2, 1, 6, 16)
    assert mask.tolist() == [[1, 1, 1, 0, 0, 0], [1] * 6]
    alone, _ = encode_captions(*parts, ["a cat"], 6)
    torch.testing.assert_close(alone[0], features[0])


def test_frames_survive_the_way_there_and_back(image):
    np.testing.assert_array_equal(to_frames(to_tensor(image[None])[None])[0, 0], image)


def test_videos_start_with_the_image(pipeline, image):
    output = pipeline(image, "a cat", num_videos=2, generator=seeded(), **SETTINGS)
    assert output.frames.shape == (2, 17, 16, 12, 3) and output.frames.dtype == np.uint8
    assert output.latents.shape == (2, 6, 5, 4, 3)
    latent = pipeline.encode_image(image, 16, 12)
    assert torch.equal(output.latents[:, :, :1], latent.expand(2, -1, -1, -1, -1))
    assert not torch.allclose(output.latents[0, :, 1:], output.latents[1, :, 1:])


def test_image_and_prompt_steer_the_video(pipeline, image):
    def latents(image, prompt):
        return pipeline.sample_latents(image, prompt, generator=seeded(), **SETTINGS)[:, :, 1:]

    first = latents(image, "a cat")
    assert torch.equal(first, latents(image, "A  cat"))
    assert not torch.allclose(first, latents(255 - image, "a cat"))
    assert not torch.allclose(first, latents(image, "a a a"))
    assert not torch.allclose(first, latents(None, "a cat"))


def test_a_video_does_not_depend_on_how_many_are_made(pipeline, image):
    five = pipeline.sample_latents(image, "a cat", num_videos=5, generator=seeded(3), **SETTINGS)
    two = pipeline.sample_latents(image, "a cat", num_videos=2, generator=seeded(3), **SETTINGS)
    # Products of other sizes round otherwise, on some processors by 1e-5 in the end; another noise would be of order 1.
    torch.testing.assert_close(two, five[:2], rtol=0, atol=1e-4)
    own = [seeded(i) for i in range(3)]
    batch = pipeline.sample_latents(image, "a cat", num_videos=3, generator=own, **SETTINGS)
    alone = pipeline.sample_latents(image, "a cat", generator=[seeded(2)], **SETTINGS)
    torch.testing.assert_close(alone, batch[2:], rtol=0, atol=1e-4)
    assert np.array_equal(pipeline.decode_latents(batch, 17)[2:], pipeline.decode_latents(batch[2:], 17))


def test_without_guidance_there_is_one_pass(pipeline, image):
    batches = []
    hook = pipeline.transformer.register_forward_pre_hook(lambda module, args: batches.append(len(args[0])))
    for scale in (1.0, 1.0 + 1e-6):
        settings = {**SETTINGS, "guidance_scale": scale, "num_inference_steps": 1}
        pipeline.sample_latents(image, "a cat", num_videos=2, generator=seeded(), **settings)
    hook.remove()
    assert batches == [2, 4]


def test_single_images_are_made_at_their_own_frame_rate(pipeline):
    rates = []
    hook = pipeline.transformer.register_forward_pre_hook(
        lambda module, args, kwargs: rates.append(kwargs["fps"].tolist()), with_kwargs=True
    )
    settings = {**SETTINGS, "num_inference_steps": 1}
    for frames in (1, 17):
        output = pipeline(None, "a cat", generator=seeded(), **{**settings, "num_frames": frames})
        assert output.frames.shape[1] == frames
    hook.remove()
    assert rates == [[120.0], [8.0]]


@pytest.mark.parametrize(
    "changes, word",
    [(dict(num_frames=9), "at least 17"), (dict(height=2), "too small"), (dict(num_inference_steps=0), "step")],
)
def test_impossible_settings_are_refused(pipeline, image, changes, word):
    with pytest.raises(ValueError, match=word):
        pipeline(image, "a cat", generator=seeded(), **{**SETTINGS, **changes})


def test_generators_must_match_the_videos(pipeline, image):
    with pytest.raises(ValueError, match="2 generators for 3 videos"):
        pipeline(image, "a cat", num_videos=3, generator=[seeded(), seeded()], **SETTINGS)


def test_save_and_load(pipeline, image, tmp_path):
    pipeline.save_pretrained(tmp_path)
    loaded = OpenSoraPipeline.from_pretrained(tmp_path)
    assert loaded.scheduler.config.base_size == 16
    expected, found = (p(image, "a cat", generator=seeded(), **SETTINGS) for p in (pipeline, loaded))
    assert torch.equal(expected.latents, found.latents)
    np.testing.assert_array_equal(expected.frames, found.frames)


@pytest.mark.fault
def test_lost_weights_are_named(pipeline, tmp_path):
    pipeline.save_pretrained(tmp_path)
    path = tmp_path / "transformer/diffusion_pytorch_model.safetensors"
    weights = load_file(path)
    del weights["rope.freqs"]
    save_file(weights, path)
    with pytest.raises(ValueError, match="transformer lack rope.freqs"):
        OpenSoraPipeline.from_pretrained(tmp_path)
