"""Where pretrained models lie: in the checkout, in a folder laid out like the hub, or on the hub, pinned."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import yaml

from icreward_lib.run.files import CHECKOUT, DamagedFileError, content_hash, reporting_full_disk

DINO, DREAMSIM = "dino", "dreamsim"  # folders of VBench++'s networks, which are not on the hub
ROOT = "ICREWARD_MODELS"  # the environment variable that names a folder of models


@dataclass(frozen=True)
class Pin:
    """A commit of a repository of the hub, the files that are read, and SHA-256 of those that are known."""

    revision: str
    files: Sequence[str]
    sha256: Mapping[str, str] = field(default_factory=dict)


PINS = {name: Pin(**pin) for name, pin in yaml.safe_load(Path(__file__).with_name("pins.yaml").read_bytes()).items()}


def models_root() -> Path:
    """The folder of downloaded models: `ICREWARD_MODELS`, or else `models` in the checkout."""
    return Path(os.environ.get(ROOT) or CHECKOUT / "models").resolve()


def find(name: str) -> Path | None:
    """The folder of a model that is on this machine, in the checkout or in `models_root()`; None: it is not."""
    folder = CHECKOUT / name if name.startswith("checkpoints/") else models_root() / name
    return folder if name and folder.is_dir() else None


def locate(name: str) -> Path:
    """The folder of a model, fetched from the hub if it is not on this machine and `ICREWARD_MODELS` is not set.

    The hub is asked for `owner/name` only, at the revision that `PINS` gives. Raises `FileNotFoundError`, which says
    what to do, or `DamagedFileError` if a fetched file is not the published one.
    """
    if folder := find(name):
        return folder
    if name.startswith("checkpoints/"):
        how = f"restore it with 'git checkout -- {name}' or train it with notebooks/00_laptop_models.ipynb"
        raise FileNotFoundError(f"there is no folder {name}; {how}")
    folder = models_root() / name
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", name):
        how = "README.md says what belongs there ('At the poster's scale'); --models names another folder of models"
        raise FileNotFoundError(f"there is no folder {folder}: {how}")
    revision = f" --revision {PINS[name].revision}" if name in PINS else ""
    command = f"hf download {name}{revision} --local-dir {folder}"
    if os.environ.get(ROOT):
        raise FileNotFoundError(f"there is no folder {folder}: fill it with '{command}'")
    return _fetch(name, folder, command)


def _fetch(name: str, place: Path, command: str) -> Path:
    """Download a model into the hub's cache; messages name the `command` that fills its `place` instead."""
    from huggingface_hub import errors, snapshot_download  # here, as the command line has to start quickly

    pin = PINS.get(name)
    revision, files = (pin.revision, list(pin.files)) if pin else (None, None)
    try:
        with reporting_full_disk(Path(name)):
            folder = Path(snapshot_download(name, revision=revision, allow_patterns=files))
    except errors.GatedRepoError as error:  # a kind of RepositoryNotFoundError
        why = "to registered users only: ask for access on its page, then 'hf auth login'"
        raise FileNotFoundError(f"the hub gives {name} {why}") from error
    except errors.RepositoryNotFoundError as error:
        raise FileNotFoundError(f"the hub has no repository {name}: check the name in the profile") from error
    except errors.RevisionNotFoundError as error:
        why = f"no longer has the revision {revision}: put its files, from wherever they are kept, into {place}"
        raise FileNotFoundError(f"the hub's {name} {why}") from error
    except (errors.LocalEntryNotFoundError, errors.HfHubHTTPError, ConnectionError) as error:
        why = f"the hub cannot be reached: where there is a network run '{command}' and bring that folder here"
        raise FileNotFoundError(f"{name} is not here and {why}") from error
    for file, sha in pin.sha256.items() if pin else ():
        if content_hash(folder / file) != sha:
            raise DamagedFileError(f"{folder / file} is not the published file: delete it and run the same again")
    return folder
