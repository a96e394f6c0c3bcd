import json
from pathlib import Path

import pytest
import support
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file
from torch import Tensor

from icreward_lib.generators.opensora.autoencoder import Posterior, VideoAutoencoder
from icreward_lib.generators.opensora.public_weights import config_from_hub
from icreward_lib.generators.opensora.temporal_autoencoder import CausalConv3d, TemporalAutoencoder

REFERENCE = support.REFERENCE / "opensora"
INFO = json.loads((REFERENCE / "vae_reference.json").read_text())
CASES = [name for name in INFO["cases"] if name != "cal_loss"]


@pytest.fixture(scope="module")
def tensors() -> dict[str, Tensor]:
    return load_file(REFERENCE / "vae_cases.safetensors")


@pytest.fixture(scope="module")
def public() -> VideoAutoencoder:
    """The reference checkpoint: public layout and architecture, tiny widths, random weights."""
    model = VideoAutoencoder(**config_from_hub(INFO["hub_config"], INFO["spatial_config"]))
    model.load_state_dict(load_file(REFERENCE / "vae_weights.safetensors"))
    return model.eval()


def small(**changes: object) -> VideoAutoencoder:
    """Factor 4 in space, other widths of spatial and temporal latents, as the small autoencoder has them."""
    torch.manual_seed(0)
    sizes = {
        "latent_channels": 6,
        "spatial_block_out_channels": (4, 8, 8),
        "spatial_layers_per_block": 1,
        "spatial_latent_channels": 3,
        "spatial_norm_num_groups": 2,
        "spatial_mid_block_add_attention": False,
        "temporal_filters": 8,
        "temporal_num_res_blocks": 1,
        "temporal_channel_multipliers": (1, 1, 2),
        "temporal_downsample": (True, True),
        "temporal_norm_num_groups": 4,
        "latent_shift": [0.1] * 6,
        "latent_scale": [2.0] * 6,
    }
    return VideoAutoencoder(**{**sizes, **changes}).eval()


def video(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def assert_close(actual: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(actual, expected, atol=1e-5, rtol=0)


# Agreement with the original code


@pytest.mark.parity
@pytest.mark.parametrize("name", CASES)
def test_case_matches_reference(name: str, public: VideoAutoencoder, tensors: dict[str, Tensor]) -> None:
    case = INFO["cases"][name]
    public.micro_frame_size = case["micro_frame_size"]
    x = tensors[f"{name}/x"]
    with torch.no_grad():
        means = public(x, sample_posterior=False)
        latents = public.encode(x, seeded(case["seed"]))
        decoded = public.decode(tensors[f"{name}/z"], num_frames=x.shape[2])
    assert_close(means.spatial_latents, tensors[f"{name}/spatial_mean_scaled"])
    assert_close(means.temporal.mean, tensors[f"{name}/temporal_mean"])
    assert_close(means.temporal.logvar, tensors[f"{name}/temporal_logvar"])
    assert_close(latents, tensors[f"{name}/z"])
    assert_close(decoded[..., ::3, ::3], tensors[f"{name}/decoded"])
    assert decoded.shape == x.shape
    assert list(public.latent_size(tuple(x.shape[2:]))) == case["latent_size"] == list(latents.shape[2:])


@pytest.mark.parity
def test_training_pass_matches_reference(public: VideoAutoencoder, tensors: dict[str, Tensor]) -> None:
    public.micro_frame_size = 17
    with torch.no_grad():
        out = public(tensors["t9_nomicro/x"], seeded(INFO["cases"]["cal_loss"]["seed"]))
    assert_close(out.latents, tensors["cal_loss/z"])
    assert_close(out.spatial_latents, tensors["cal_loss/x_z"])
    assert_close(out.temporal.mean, tensors["cal_loss/mean"])
    assert_close(out.temporal.logvar, tensors["cal_loss/logvar"])
    assert_close(out.spatial_reconstruction, tensors["cal_loss/x_z_rec"])
    assert_close(out.video[..., ::3, ::3], tensors["cal_loss/x_rec"])


@pytest.mark.parity
def test_default_model_has_the_public_names_and_shapes() -> None:
    hub = INFO["hub_config"] | {"vae_temporal": {"type": "VAE_Temporal_SD", "from_pretrained": None}}
    with torch.device("meta"):
        model = VideoAutoencoder(**config_from_hub(hub))
    shapes = {name: list(tensor.shape) for name, tensor in model.state_dict().items()}
    expected = {"shift": [1, 4, 1, 1, 1], "scale": [1, 4, 1, 1, 1]} | INFO["public_layout"]
    assert shapes == expected and len(shapes) == 517
    assert dict(model.config) == dict(model.config) | config_from_hub(hub)
    assert model.config.temporal_downsample == (False, True, True)


def test_public_checkpoint_round_trip(public: VideoAutoencoder, tensors: dict[str, Tensor], tmp_path: Path) -> None:
    public.save_pretrained(tmp_path)
    assert {file.name for file in tmp_path.iterdir()} == {"config.json", "diffusion_pytorch_model.safetensors"}
    loaded = VideoAutoencoder.from_pretrained(tmp_path)
    public.micro_frame_size = 17
    with torch.no_grad():
        pair = [model.encode(tensors["t17/x"], sample_posterior=False) for model in (public, loaded)]
    assert torch.equal(*pair)


def test_config_from_hub_keeps_every_number() -> None:
    hub = INFO["hub_config"]
    temporal = hub["vae_temporal"] | {"in_out_channels": 7, "embed_dim": 5, "latent_embed_dim": 5, "filters": 64}
    config = config_from_hub(hub | {"vae_temporal": temporal, "micro_frame_size": 33, "scale": [2.0] * 5})
    assert config["spatial_latent_channels"] == 7 and config["latent_channels"] == 5
    assert config["temporal_filters"] == 64 and config["temporal_downsample"] == [False, True, True]
    assert config["micro_frame_size"] == 33 and config["latent_scale"] == [2.0] * 5
    assert "spatial_block_out_channels" not in config
    # The class default of the original differs from what the public checkpoint uses.
    del temporal["temporal_downsample"]
    assert config_from_hub(hub | {"vae_temporal": temporal})["temporal_downsample"] == (True, True, False)


@pytest.mark.fault
@pytest.mark.parametrize(
    ("part", "change", "message"),
    [
        ("vae_2d", {"type": "VideoAutoencoderKLTemporalDecoder"}, "not of Open-Sora 1.2"),
        ("vae_temporal", {"type": "Other"}, "not of Open-Sora 1.2"),
        ("vae_temporal", {"latent_embed_dim": 8}, "latent_embed_dim differ"),
    ],
)
def test_config_from_hub_rejects_other_models(part: str, change: dict[str, object], message: str) -> None:
    hub = INFO["hub_config"]
    with pytest.raises(ValueError, match=message):
        config_from_hub(hub | {part: hub[part] | change})


# Shapes


@pytest.mark.parametrize(
    ("frames", "latents"), [(1, 1), (17, 5), (34, 10), (51, 15), (68, 20), (102, 30), (204, 60), (408, 120)]
)
def test_latent_counts(public: VideoAutoencoder, frames: int, latents: int) -> None:
    public.micro_frame_size = 17
    assert public.latent_size((frames, 426, 854)) == (latents, 53, 106)


@pytest.mark.property
@settings(deadline=None, max_examples=40)
@given(frames=st.integers(1, 500), height=st.integers(8, 900), width=st.integers(8, 900))
def test_latent_size_formula(public: VideoAutoencoder, frames: int, height: int, width: int) -> None:
    public.micro_frame_size = 17
    expected = 5 * (frames // 17) + -(-(frames % 17) // 4)
    assert public.latent_size((frames, height, width)) == (expected, height // 8, width // 8)


@pytest.mark.parametrize("frames", [1, 2, 16, 17, 18, 34])
def test_small_model_shapes(frames: int) -> None:
    model, x = small(), video(2, 3, frames, 18, 20)
    with torch.no_grad():
        z = model.encode(x, seeded())
        assert z.shape == (2, 6, *model.latent_size((frames, 18, 20)))
        assert model.decode(z, frames).shape == (2, 3, frames, 16, 20)


def test_image_is_a_video_of_one_frame() -> None:
    model, x = small(), video(1, 3, 1, 16, 16)
    with torch.no_grad():
        z = model.encode(x, sample_posterior=False)
        image = model.spatial_vae.module.encode(x[:, :, 0]).latent_dist.mode() * 0.18215
        moments = model.temporal_vae.encode(image.unsqueeze(2))
    assert_close(z, (moments[:, :6] - 0.1) / 2.0)


def test_wrong_lengths_are_refused() -> None:
    model = small()
    with pytest.raises(ValueError, match="5 latent frames for num_frames=18, which has 6"):
        model.decode(torch.zeros(1, 6, 5, 4, 4), num_frames=18)
    with pytest.raises(ValueError, match="give latent_channels=6 each"):
        small(latent_shift=[0.0] * 4)
    with pytest.raises(ValueError, match="temporal_downsample has 1 flags for 3 levels"):
        small(temporal_downsample=(True,))


# Time


@pytest.mark.property
@settings(deadline=None, max_examples=40)
@given(kernel=st.sampled_from([1, 3]), stride=st.sampled_from([1, 2]), frame=st.integers(0, 7))
def test_convolution_sees_no_later_frame(kernel: int, stride: int, frame: int) -> None:
    if kernel < stride:
        return
    torch.manual_seed(0)
    conv = CausalConv3d(2, 3, kernel, stride=stride)
    x = video(1, 2, 8, 4, 4)
    changed = x.clone()
    changed[:, :, frame] += 1.0
    with torch.no_grad():
        moved = (conv(changed) - conv(x)).abs().amax((0, 1, 3, 4)) > 1e-4
    # With stride 2 output i ends at input 2 i + 1.
    first = frame // stride
    assert not moved[:first].any() and moved[first]


def test_chunks_are_independent() -> None:
    model, x = small(), video(1, 3, 34, 16, 16)
    other = x.clone()
    other[:, :, 17:] = video(1, 3, 17, 16, 16, seed=1)
    with torch.no_grad():
        a, b = (model.encode(v, sample_posterior=False) for v in (x, other))
        alone = model.encode(x[:, :, :17], sample_posterior=False)
        later = model.decode(torch.cat([a[:, :, :5], b[:, :, 5:]], 2), 34)
        first = model.decode(a[:, :, :5], 17)
    assert_close(a[:, :, :5], alone)
    assert_close(b[:, :, :5], alone)
    assert (a - b)[:, :, 5:].abs().max() > 1e-3
    assert_close(later[:, :, :17], first)


def test_depth_to_time_undoes_the_order_of_channels() -> None:
    torch.manual_seed(0)
    temporal = TemporalAutoencoder(2, 2, widths=(4, 4), num_res_blocks=1, downsample=(True,), num_groups=2)
    up = temporal.decoder.conv_blocks[0]
    x = video(1, 4, 3, 2, 2)
    with torch.no_grad():
        wide, long = CausalConv3d.forward(up, x), up(x)
    for channel in range(4):
        for frame in range(6):
            assert torch.equal(long[:, channel, frame], wide[:, 2 * channel + frame % 2, frame // 2])


# Randomness, batches, normalisation


def test_sampling_follows_the_generator() -> None:
    model, x = small(), video(2, 3, 5, 16, 16)
    with torch.no_grad():
        a, b, c = (model.encode(x, seeded(seed)) for seed in (1, 1, 2))
        state = torch.get_rng_state()
        mean = model.encode(x, sample_posterior=False)
    assert torch.equal(a, b) and not torch.equal(a, c) and not torch.equal(a, mean)
    assert torch.equal(state, torch.get_rng_state())


@pytest.mark.parametrize("micro_batch_size", [1, 3, 100])
def test_result_depends_on_no_batch(micro_batch_size: int) -> None:
    # In double precision, because group norms of nearly constant groups amplify the rounding of convolutions.
    model, x = small().double(), video(3, 3, 6, 16, 16).double()
    grouped = small(micro_batch_size=micro_batch_size).double()
    with torch.no_grad():
        z = model.encode(x, sample_posterior=False)
        decoded = model.decode(z, 6)
        alone = torch.cat([grouped.encode(v.unsqueeze(0), sample_posterior=False) for v in x])
        decoded_alone = torch.cat([grouped.decode(v.unsqueeze(0), 6) for v in z])
    torch.testing.assert_close(alone, z, atol=1e-10, rtol=0)
    torch.testing.assert_close(decoded_alone, decoded, atol=1e-10, rtol=0)


def test_spatial_noise_is_drawn_for_four_frames_at_a_time() -> None:
    # 27 numbers per frame: the order of torch's draws depends on the grouping unless 16 divides the group.
    like, generator = torch.zeros(2, 3, 5, 3, 3), seeded()
    frames = torch.cat([torch.randn(count, 3, 3, 3, generator=generator) for count in (4, 4, 2)])
    noise = small().spatial_vae.noise(like, seeded())
    assert torch.equal(noise[1, :, 2], frames[7]) and torch.equal(noise[0, :, 4], frames[4])


def test_normalisation_is_saved_and_used(tmp_path: Path) -> None:
    model, x = small(), video(1, 3, 5, 16, 16)
    shift, scale = [0.5, -0.25, 0.0, 1.0, 2.0, -3.0], [1.0, 2.0, 0.5, 4.0, 0.25, 8.0]
    model.set_normalisation(shift, scale)
    model.save_pretrained(tmp_path)
    loaded = VideoAutoencoder.from_pretrained(tmp_path)
    assert loaded.config.latent_shift == shift and loaded.config.latent_scale == scale
    with torch.no_grad():
        raw = loaded(x, sample_posterior=False)
        z = loaded.encode(x, sample_posterior=False)
        per_channel = [torch.tensor(v).view(1, 6, 1, 1, 1) for v in (shift, scale)]
        assert_close(z * per_channel[1] + per_channel[0], raw.latents)
        assert_close(loaded.decode(z, 5), raw.video)


# Training


def test_gradients_reach_every_parameter() -> None:
    model, x = small(), video(2, 3, 9, 16, 16)
    out = model(x, seeded())
    ((out.video - x).abs().mean() + 1e-3 * (out.spatial.kl() + out.temporal.kl()).mean()).backward()
    silent = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert silent == []


def test_kl_is_the_one_to_the_standard_normal() -> None:
    moments = torch.randn(2, 6, 3, 2, 2, generator=seeded())
    posterior = Posterior(moments)
    normal = torch.distributions.Normal(posterior.mean, (0.5 * posterior.logvar).exp())
    expected = torch.distributions.kl_divergence(normal, torch.distributions.Normal(0.0, 1.0)).flatten(1).sum(1)
    assert_close(posterior.kl(), expected)
    assert Posterior(moments * 1e3).logvar.abs().max() == 30.0


def test_a_few_steps_reduce_the_error() -> None:
    model, x = small(spatial_scaling_factor=1.0).train(), video(1, 3, 5, 8, 8)
    optimiser = torch.optim.Adam(model.parameters(), lr=1e-2)
    losses = []
    for _ in range(20):
        loss = (model(x, sample_posterior=False).video - x).abs().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < 0.95 * losses[0]
