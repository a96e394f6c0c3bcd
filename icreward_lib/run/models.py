"""Where pretrained models lie: in the checkout, in a folder laid out like the hub, or on the hub, pinned."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from icreward_lib.run.files import CHECKOUT, DamagedFileError, content_hash, reporting_full_disk

DINO, DREAMSIM = "dino", "dreamsim"  # folders of VBench++'s networks, which are not on the hub
ROOT = "ICREWARD_MODELS"  # the environment variable that names a folder of models


@dataclass(frozen=True)
class Pin:
    """What a repository of the hub is: a commit of it, the files that are read, and SHA-256 of those that are known."""

    revision: str
    files: tuple[str, ...]
    sha256: Mapping[str, str] = field(default_factory=dict)


PINS = {
    "hpcai-tech/OpenSora-STDiT-v3": Pin(
        "9a8583918505ee93bd9fae8dd5ce32e1f9334c71", ("config.json", "model.safetensors")
    ),
    "hpcai-tech/OpenSora-VAE-v1.2": Pin(
        "33d153e9b5a9f771a8a84f98bd3f46458a8ed0bf", ("config.json", "model.safetensors")
    ),
    "DeepFloyd/t5-v1_1-xxl": Pin("c9c625d2ec93667ec579ede125fd3811d1f81d37", ("*.json", "*.bin", "spiece.model")),
    "Qwen/Qwen2-VL-2B-Instruct": Pin(
        "895c3a49bc3fa70a340399125c650a463535e71c",
        ("*.json", "*.safetensors", "merges.txt"),
        {
            "model-00001-of-00002.safetensors": "994ac2b03f97de8bc647d0fe5eba2e4b632b3e28dc03574c29bdfc36cf47e1b9",
            "model-00002-of-00002.safetensors": "92540d8353c8d226a589a3b179bdb33851c970ee2cc2ac7ba035f79425e7b833",
        },
    ),
    "KlingTeam/VideoReward": Pin(
        "4f26600130683e6f1de9f5d463887f28e8ef995c",
        ("model_config.json", "checkpoint-11352/model.pth"),
        {"checkpoint-11352/model.pth": "48375908e6112de9f0248402db156a23b480709a6960b091c598c6f4c88d21b9"},
    ),
    "laion/CLIP-ViT-B-32-laion2B-s34B-b79K": Pin(
        "1a25a446712ba5ee05982a381eed697ef9b435cf",
        ("open_clip_config.json", "open_clip_model.safetensors"),
        {"open_clip_model.safetensors": "ac4f8c4b88af6d963118cbf40ad93176d092abbedfcb752601ae1866352656e6"},
    ),
}


def models_root() -> Path:
    """The folder of downloaded models: `ICREWARD_MODELS`, or else `models` in the checkout."""
    return Path(os.environ.get(ROOT) or CHECKOUT / "models").resolve()


def find(name: str) -> Path | None:
    """The folder of a model that is on this machine, in the checkout or in `models_root()`; None: it is not."""
    folder = CHECKOUT / name if name.startswith("checkpoints/") else models_root() / name
    return folder if name and folder.is_dir() else None


def locate(name: str) -> Path:
    """The folder of a model, fetched from the hub if it is not on this machine.

    The hub is asked for `owner/name` only, at the revision that `PINS` gives, and never if `ICREWARD_MODELS` is set.

    Raises:
        FileNotFoundError: if there is no such folder or it cannot be fetched; the message says what to do.
        DamagedFileError: if a fetched file is not the published one.
    """
    if folder := find(name):
        return folder
    if name.startswith("checkpoints/"):
        raise FileNotFoundError(
            f"there is no folder {name}; restore it with 'git checkout -- {name}' or train it with "
            "notebooks/00_laptop_models.ipynb"
        )
    folder = models_root() / name
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", name):
        raise FileNotFoundError(
            f"there is no folder {folder}: README.md says what belongs there ('At the poster's scale'); --models "
            "names another folder of models"
        )
    if os.environ.get(ROOT):
        raise FileNotFoundError(f"there is no folder {folder}: fill it with '{_download(name, folder)}'")
    return _fetch(name)


def _download(name: str, folder: Path) -> str:
    revision = f" --revision {PINS[name].revision}" if name in PINS else ""
    return f"hf download {name}{revision} --local-dir {folder}"


def _fetch(name: str) -> Path:
    from huggingface_hub import snapshot_download  # here, as the command line has to start quickly
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    pin = PINS.get(name)
    revision, files = (pin.revision, list(pin.files)) if pin else (None, None)
    try:
        with reporting_full_disk(Path(name)):
            folder = Path(snapshot_download(name, revision=revision, allow_patterns=files))
    except GatedRepoError as error:  # a kind of RepositoryNotFoundError
        raise FileNotFoundError(
            f"the hub gives {name} to registered users only: ask for access on its page, then 'hf auth login'"
        ) from error
    except RepositoryNotFoundError as error:
        raise FileNotFoundError(f"the hub has no repository {name}: check the name in the profile") from error
    except RevisionNotFoundError as error:
        raise FileNotFoundError(
            f"the hub's {name} no longer has the revision {revision}: put its files, from wherever they are kept, "
            f"into {models_root() / name}"
        ) from error
    except (LocalEntryNotFoundError, HfHubHTTPError, ConnectionError) as error:
        raise FileNotFoundError(
            f"{name} is not here and the hub cannot be reached: where there is a network run "
            f"'{_download(name, models_root() / name)}' and bring that folder here"
        ) from error
    for file, sha in pin.sha256.items() if pin else ():
        if content_hash(folder / file) != sha:
            raise DamagedFileError(f"{folder / file} is not the published file: delete it and run the same again")
    return folder
