"""What a profile of the public models will cost: operations, GPU memory and disk of every stage, before it runs.

Single passes are counted by `counting` and taken as often as the profile says; the generator's memory is that of
`opensora.memory`. Two figures are quoted or measured and not derived: I3D's operations and the size of lossless video.
Tables, scores and other files of less than some MB are left out. Sizes are bytes; GB are 10^9.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from icreward_lib.cli import counting
from icreward_lib.cli.counting import weights
from icreward_lib.generators.open_sora import PROMPTS_AT_A_TIME
from icreward_lib.generators.opensora import memory
from icreward_lib.generators.opensora.public_weights import TRANSFORMER
from icreward_lib.metrics.video_features import I3D_SIDE, I3D_SIZE
from icreward_lib.poster.data_curation import FROZEN_COPIES
from icreward_lib.run.profile import GenerationSettings, Profile, ProfileError

#: Dense bfloat16 FLOP/s without sparsity, as NVIDIA's data sheets give them for the SXM modules.
PEAK_FLOPS = {"H100": 989e12, "A100": 312e12}

#: What the models of a profile must name for its costs to be known.
PUBLIC = {"generator": TRANSFORMER, "vlm": "Qwen2-VL-2B", "clip": "ViT-B-32", "fvd": "i3d", "labels": "vbench"}

#: Quoted: 108e9 multiply-adds for 64 frames of 224 x 224 (Xie et al., arXiv 1712.04851), and 12 million weights
#: (Carreira and Zisserman, arXiv 1705.07750). The network is TorchScript, which nothing here can count.
I3D_FRAME_FLOPS, I3D_WEIGHTS = 2 * 108 * 10**9 // 64, 12 * 10**6

#: Measured: bytes a pixel of `write_video(lossless=True)`, the mean of pans and zooms (51 frames of 240 x 424) over
#: four photographs of scikit-image; the single clips had 0.5 to 1.03.
LOSSLESS = 0.81

I3D_CLIPS_AT_A_TIME = 8  # of I3DFeatures
ADAM = 8  # bytes of AdamW's two averages of a float32 weight


@dataclass(frozen=True)
class StageCost:
    """What one stage of a run needs: FLOPs in all, bytes on the GPU at one time, bytes that it leaves on disk.

    `counted` says what the figures are made of.
    """

    stage: str
    counted: str
    flops: int
    gpu_memory: int
    disk: int


def costs(profile: Profile) -> list[StageCost]:
    """The cost of every stage of a profile, in the order of the notebooks; the downloads come first.

    Takes about half a minute, and no weights. Raises `ProfileError` for a profile of other than the public models.
    """
    for key, name in PUBLIC.items():
        if name not in (given := getattr(profile.models, key)):
            raise ProfileError(f"costs are known for the public models: models.{key} should name {name}, not {given!r}")
    return [_downloads(), *_curation(profile), *_rewards(profile), *_comparison(profile), *_tuning(profile)]


def to_markdown(
    rows: Sequence[StageCost], *, peak_flops: Mapping[str, float] = PEAK_FLOPS, utilisation: float = 0.4
) -> str:
    """The costs and their totals as a Markdown table, with the hours of each GPU of `peak_flops` (FLOP/s).

    The hours are FLOPs / (peak * `utilisation`): the share of the peak, in (0, 1], is assumed, not measured.
    """
    total = StageCost(
        "**total**",
        "GPU memory: the most at one time",
        sum(row.flops for row in rows),
        max(row.gpu_memory for row in rows),
        sum(row.disk for row in rows),
    )
    head = ["stage", "counted", "PFLOP", "GPU memory, GB", "disk, GB", *(f"{gpu}-hours" for gpu in peak_flops)]
    lines = [f"| {' | '.join(head)} |", "|---|---|" + "---:|" * (len(head) - 2)]
    for row in (*rows, total):
        hours = (_hours(row.flops / (peak * utilisation) / 3600) for peak in peak_flops.values())
        sizes = (f"{row.flops / 1e15:,.1f}", f"{row.gpu_memory / 1e9:.1f}", f"{row.disk / 1e9:.2f}")
        lines.append(f"| {' | '.join((row.stage, row.counted, *sizes, *hours))} |")
    peaks = ", ".join(f"{gpu} {peak / 1e12:.0f} TFLOP/s" for gpu, peak in peak_flops.items())
    return "\n".join(lines) + f"\n\nHours assume {utilisation:.0%} of the peak in dense bfloat16: {peaks}.\n"


def _hours(value: float) -> str:
    return f"{value:.2f}" if value >= 0.005 or value == 0 else "< 0.01"


def _downloads() -> StageCost:
    text, transformer, vae = counting.open_sora()
    # Weights lie on the hub in float32, those of Qwen2-VL and of VideoReward, which is a whole one, in bfloat16.
    single = sum(map(weights, (text, transformer, vae, counting.clip_model(), counting.backbones()))) + I3D_WEIGHTS
    return StageCost("downloads", "weights of all models", 0, 0, 4 * single + 2 * 2 * weights(counting.vlm()))


def _curation(profile: Profile) -> list[StageCost]:
    data, shape = profile.data, profile.generation
    generator, scorer, clips = counting.generator(shape), counting.scored_frame(), data.samples * data.videos_per_sample
    frames = shape.num_frames
    images = len(range(0, data.test, max(1, data.test // 40)))  # as in notebook 01
    phases = _phases(shape, data.videos_per_sample)
    scoring = 4 * weights(counting.backbones()) + scorer.held + memory.RESERVE

    def scored(stage: str, counted: str, count: int, disk: int = 0) -> StageCost:
        return StageCost(stage, counted, count * scorer.flops, scoring, disk)

    pixels = frames * generator.pixels
    return [
        StageCost(
            "videos",
            f"{clips} clips of {shape.steps} steps, {data.videos_per_sample} at a time; a caption and image for each",
            data.samples * (generator.text + generator.image) + clips * generator.video,
            max(phase.total for phase in phases),
            clips * (4 * generator.latents + round(LOSSLESS * pixels)),
        ),
        scored("anchors", "frames of a clip and image, and frozen ones", data.train * (frames + 1) + FROZEN_COPIES * 3),
        scored("scores", "frames of all clips, images: DINO, DreamSim", clips * frames + data.samples),
        scored(
            "low_scores",
            "at most a clip of each training sample; uint8 kept",
            data.train * (frames + 1),
            data.low_score_additions * 3 * pixels,
        ),
        StageCost(
            "autoencoded",
            f"{images} real clips encoded, decoded, scored three times",
            images * (generator.image + generator.encode + generator.decode + 3 * (frames + 1) * scorer.flops),
            phases[-1].total + scoring - memory.RESERVE,
            0,
        ),
    ]


def _rewards(profile: Profile) -> list[StageCost]:
    data, shape, mlp, settings = profile.data, profile.generation, profile.mlp, profile.icreward
    clips = data.samples * data.videos_per_sample + data.low_score_additions
    train, val = (count * data.videos_per_sample for count in (data.train, data.val))
    train += data.low_score_additions
    clip, width = counting.clip_frame(), counting.clip_model().visual.output_dim
    reader = counting.reader(
        shape, data.videos_per_sample, settings.num_frames, settings.batch_size, settings.lora_rank
    )
    body = 2 * weights(counting.vlm())
    # Forward passes of the validation after every epoch, and of all clips at the end.
    looked = settings.epochs * val + clips
    judged = mlp.epochs * val + clips
    perceptron = (2 * width + 1) * mlp.hidden + 2 * (mlp.hidden + 1)
    return [
        StageCost(
            "clip_features",
            "frames of all clips, images: CLIP",
            (clips * shape.num_frames + data.samples) * clip.flops,
            4 * weights(counting.clip_model()) + clip.held + memory.RESERVE,
            (clips * shape.num_frames + data.samples) * width * 4,
        ),
        StageCost(
            "reward_mlp",
            f"{mlp.seeds} x {mlp.epochs} epochs, 6 FLOPs a weight and frame; on the CPU",
            mlp.seeds * shape.num_frames * perceptron * (6 * mlp.epochs * train + 2 * judged),
            0,
            mlp.seeds * 5 * 4 * perceptron,
        ),
        StageCost(
            "vision_tokens",
            f"{settings.num_frames} frames of all clips, images: {reader.tokens} tokens a frame",
            (clips * reader.groups + data.samples) * reader.see.flops,
            body + reader.see.held + memory.RESERVE,
            (clips * reader.groups + data.samples) * reader.tokens * reader.width * 4,
        ),
        StageCost(
            "reward_icreward",
            f"{settings.seeds} x {settings.epochs} epochs of {train} clips, {looked} scored; {reader.length} tokens",
            settings.seeds * (settings.epochs * train * reader.learn.flops + looked * reader.read),
            body + (4 + ADAM) * reader.adapters + reader.learn.held + memory.RESERVE,
            # The model, and the checkpoint: last and best weights, AdamW's averages.
            settings.seeds * 5 * 4 * reader.adapters,
        ),
    ]


def _comparison(profile: Profile) -> list[StageCost]:
    data, frames = profile.data, profile.generation.num_frames
    # The first layer gives the largest tensors, 64 channels at half the size: convolution, norm, activation.
    held = I3D_CLIPS_AT_A_TIME * frames * I3D_SIDE**2 * 4 * (3 + 3 * 64 // 8)
    gpu = 4 * I3D_WEIGHTS + held + memory.RESERVE

    def extracted(stage: str, counted: str, clips: int) -> StageCost:
        return StageCost(stage, counted, clips * frames * I3D_FRAME_FLOPS, gpu, clips * I3D_SIZE * 4)

    return [
        extracted("fvd_features", "clips of the test split, real ones: I3D", data.test * (data.videos_per_sample + 1)),
        extracted("real_features", "two real clips for each test sample: I3D", 2 * data.test),
    ]


def _tuning(profile: Profile) -> list[StageCost]:
    data, shape, dpo = profile.data, profile.generation, profile.dpo
    generator, policy = counting.generator(shape), counting.policy(shape, dpo.lora_rank)
    _, transformer, vae = counting.open_sora()
    pairs = min(dpo.micro_batch, dpo.batch_size)
    step = memory.fine_tuning(transformer, vae, _request(shape, 2 * pairs)).total
    text = _phases(shape, 1)[0]
    captions = text.total + (PROMPTS_AT_A_TIME - 1) * text.activations
    evaluations = -(-dpo.steps // dpo.eval_every)
    pair = 2 * (generator.denoise + policy.learn)  # both sides by the reference, and by the policy with its gradient
    evaluated = 2 * dpo.held_out_pairs * dpo.eval_timesteps
    trained = dpo.steps * dpo.batch_size * pair + evaluated * (generator.denoise + evaluations * policy.denoise)
    tuned = generator.video + generator.steps * (policy.denoise - generator.denoise)
    return [
        StageCost(
            "dpo",
            f"{dpo.seeds} x {dpo.steps} steps of {dpo.batch_size} pairs, 1 + {evaluations} evaluations of {evaluated}",
            dpo.seeds * (trained + data.samples * generator.text),
            max(step + (4 + 4 + ADAM) * policy.adapters, captions),
            dpo.seeds * 4 * 4 * policy.adapters,  # the adapters; those of the checkpoint and AdamW's averages
        ),
        StageCost(
            "new_samples",
            f"{dpo.new_samples} clips of the base, as many of the tuned generator",
            dpo.new_samples * (2 * (generator.text + generator.image) + generator.video + tuned),
            max(phase.total for phase in _phases(shape, 1)) + 4 * policy.adapters,
            dpo.new_samples * 2 * round(LOSSLESS * shape.num_frames * generator.pixels),
        ),
    ]


def _request(shape: GenerationSettings, videos: int) -> memory.Request:
    return memory.Request(shape.num_frames, shape.height, shape.width, videos, shape.guidance)


def _phases(shape: GenerationSettings, videos: int) -> list[memory.Phase]:
    return memory.phases(*counting.open_sora(), _request(shape, videos))
