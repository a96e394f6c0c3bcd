"""Folders with the files, tensor names and dtypes of the public Open-Sora 1.2 repositories, but tiny and random.

Widths shrink, depths stay: every one of the 973 + 517 names is there. Sizes as of the public files otherwise.
"""

from __future__ import annotations

import io
import json
from pathlib import Path

import sentencepiece
import torch
from safetensors.torch import save_file
from torch import Tensor
from transformers import T5Config, T5EncoderModel

from support import REFERENCE

TRANSFORMER = "hpcai-tech/OpenSora-STDiT-v3"
AUTOENCODER = "hpcai-tech/OpenSora-VAE-v1.2"
TEXT_ENCODER = "DeepFloyd/t5-v1_1-xxl"

LAYOUT = json.loads((REFERENCE / "opensora/layout.json").read_text())
DEPTH, FILTERS, HIDDEN, HEADS, TEXT = 28, 8, 16, 2, 32
TINY = {1152: HIDDEN, 3456: 3 * HIDDEN, 2304: 2 * HIDDEN, 4608: 4 * HIDDEN, 6912: 6 * HIDDEN, 4096: TEXT}
TINY |= {72: HIDDEN // HEADS, 36: HIDDEN // HEADS // 2}

TRANSFORMER_CONFIG = {
    "architectures": ["STDiT3"],
    "caption_channels": 4096,
    "class_dropout_prob": 0.1,
    "depth": DEPTH,
    "drop_path": 0.0,
    "enable_flash_attn": True,
    "enable_layernorm_kernel": True,
    "enable_sequence_parallelism": False,
    "freeze_y_embedder": True,
    "hidden_size": 1152,
    "in_channels": 4,
    "input_size": [None, None, None],
    "input_sq_size": 512,
    "mlp_ratio": 4.0,
    "model_max_length": 300,
    "model_type": "STDiT3",
    "num_heads": 16,
    "only_train_temporal": False,
    "patch_size": [1, 2, 2],
    "pred_sigma": True,
    "qk_norm": True,
    "skip_y_embedder": False,
    "torch_dtype": "float32",
    "transformers_version": "4.36.2",
}
AUTOENCODER_CONFIG = {
    "architectures": ["VideoAutoencoderPipeline"],
    "cal_loss": False,
    "freeze_vae_2d": False,
    "from_pretrained": None,
    "micro_frame_size": 17,
    "model_type": "VideoAutoencoderPipeline",
    "scale": [3.85, 2.32, 2.33, 3.06],
    "shift": [-0.1, 0.34, 0.27, 0.98],
    "torch_dtype": "float32",
    "transformers_version": "4.36.2",
    "vae_2d": {
        "from_pretrained": "PixArt-alpha/pixart_sigma_sdxlvae_T5_diffusers",
        "micro_batch_size": 4,
        "subfolder": "vae",
        "type": "VideoAutoencoderKL",
    },
    "vae_temporal": {"from_pretrained": None, "type": "VAE_Temporal_SD"},
}


def transformer_layout() -> dict[str, tuple[int, ...]]:
    """Names and shapes of the public denoiser."""
    names = dict(LAYOUT["transformer"])
    for kind in ("spatial_blocks", "temporal_blocks"):
        names |= {f"{kind}.{i}.{name}": shape for i in range(DEPTH) for name, shape in LAYOUT["block"].items()}
    return {name: tuple(shape) for name, shape in names.items()}


def autoencoder_layout() -> dict[str, tuple[int, ...]]:
    """Names and shapes of the public autoencoder."""
    vae = json.loads((REFERENCE / "opensora/vae_reference.json").read_text())["public_layout"]
    names = {"scale": (1, 4, 1, 1, 1), "shift": (1, 4, 1, 1, 1)}
    return names | {name: tuple(shape) for name, shape in vae.items()}


def write_transformer(folder: Path) -> Path:
    """The denoiser's repository; 0.9 MB."""
    shapes = {name: tuple(TINY.get(n, n) for n in shape) for name, shape in transformer_layout().items()}
    shapes["y_embedder.y_embedding"] = (300, TEXT)
    shapes["final_layer.linear.weight"] = (32, HIDDEN)
    weights = _random(shapes, 0.2)
    weights["rope.freqs"] = 10000.0 ** -(torch.arange(0, HIDDEN // HEADS, 2) / (HIDDEN // HEADS))
    sizes = {"hidden_size": HIDDEN, "num_heads": HEADS, "caption_channels": TEXT}
    return _write(folder, TRANSFORMER_CONFIG | sizes, weights)


def write_autoencoder(folder: Path) -> Path:
    """The autoencoder's repository; 6 MB. The config says nothing of the 2D part's widths, as the public one."""

    def tiny(n: int) -> int:
        return n * FILTERS // 128 if n >= 128 else n

    shapes = {name: tuple(tiny(n) for n in shape) for name, shape in autoencoder_layout().items()}
    weights = _random(shapes, 0.1)
    for name in ("scale", "shift"):
        weights[name] = torch.tensor(AUTOENCODER_CONFIG[name]).view(1, 4, 1, 1, 1)
    temporal = AUTOENCODER_CONFIG["vae_temporal"] | {"filters": FILTERS, "num_groups": FILTERS}
    return _write(folder, AUTOENCODER_CONFIG | {"vae_temporal": temporal}, weights)


def write_text_encoder(folder: Path, width: int = TEXT) -> Path:
    """The text encoder's repository: two shards as torch saves them, and a sentencepiece vocabulary; 0.4 MB."""
    folder.mkdir(parents=True)
    config = T5Config(
        architectures=["T5EncoderModel"],
        vocab_size=256,
        d_model=width,
        d_kv=8,
        d_ff=48,
        num_layers=24,
        num_heads=2,
        feed_forward_proj="gated-gelu",
        tie_word_embeddings=False,
    )
    with torch.device("meta"):
        shapes = {name: tuple(value.shape) for name, value in T5EncoderModel(config).state_dict().items()}
    weights = _random(shapes, 0.2)
    weights["encoder.embed_tokens.weight"] = weights["shared.weight"]
    (folder / "config.json").write_text(config.to_json_string())
    names = sorted(weights)
    shards = {1: names[: len(names) // 2], 2: names[len(names) // 2 :]}
    where = {}
    for number, part in shards.items():
        file = f"pytorch_model-{number:05}-of-00002.bin"
        torch.save({name: weights[name] for name in part}, folder / file)
        where |= dict.fromkeys(part, file)
    size = sum(value.nbytes for value in weights.values())
    index = {"metadata": {"total_size": size}, "weight_map": where}
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps(index))

    vocabulary = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(["a red umbrella moves left over a cup", "motion score: 0 1 2 3 4 5 6 7 8 9."] * 9),
        model_writer=vocabulary,
        vocab_size=60,
        hard_vocab_limit=False,
        pad_id=0,
        eos_id=1,
        unk_id=2,
        bos_id=-1,
        minloglevel=2,
    )
    (folder / "spiece.model").write_bytes(vocabulary.getvalue())
    special = {"eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>"}
    special["additional_special_tokens"] = [f"<extra_id_{i}>" for i in range(100)]
    (folder / "special_tokens_map.json").write_text(json.dumps(special))
    kind = {"extra_ids": 100, "model_max_length": 512, "tokenizer_class": "T5Tokenizer"}
    (folder / "tokenizer_config.json").write_text(json.dumps(special | kind))
    return folder


def write_models(folder: Path) -> Path:
    """All three, laid out as on the hub: `folder/<owner>/<repository>/<file>`."""
    write_transformer(folder / TRANSFORMER)
    write_autoencoder(folder / AUTOENCODER)
    write_text_encoder(folder / TEXT_ENCODER)
    return folder


def _random(shapes: dict[str, tuple[int, ...]], scale: float) -> dict[str, Tensor]:
    """Norms' weights around one, everything else around zero; the zero-initialised parts too."""
    generator = torch.Generator().manual_seed(0)
    weights = {name: torch.randn(shape, generator=generator) * scale for name, shape in shapes.items()}
    return {name: 1 + value if "norm" in name and name.endswith("weight") else value for name, value in weights.items()}


def _write(folder: Path, config: dict[str, object], weights: dict[str, Tensor]) -> Path:
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(config, indent=2))
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return folder
