"""Where models are looked for, and what is said when they are not there."""

from __future__ import annotations

import hashlib
from pathlib import Path

import httpx
import huggingface_hub
import pytest
from huggingface_hub.errors import (
    GatedRepoError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from icreward_lib.run import models
from icreward_lib.run.files import DamagedFileError
from icreward_lib.run.models import PINS, ROOT, Pin, find, locate
from icreward_lib.run.profile import load_profile

QWEN = "Qwen/Qwen2-VL-2B-Instruct"


@pytest.fixture(autouse=True)
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.delenv(ROOT, raising=False)
    monkeypatch.setattr(models, "CHECKOUT", tmp_path / "checkout")
    return tmp_path / "checkout"


def test_every_hub_model_of_the_paper_profile_is_pinned() -> None:
    names = [name for name in load_profile("paper").models.model_dump().values() if "/" in name]
    assert sorted(names) == sorted(PINS)
    for pin in PINS.values():
        assert len(pin.revision) == 40 and all(len(sha) == 64 for sha in pin.sha256.values())


def test_a_folder_goes_before_the_hub(checkout: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for folder in (checkout / "models" / QWEN, checkout / "checkpoints/laptop/clip", tmp_path / "own" / QWEN):
        folder.mkdir(parents=True)
    assert locate("checkpoints/laptop/clip") == checkout / "checkpoints/laptop/clip"
    assert locate(QWEN) == (checkout / "models" / QWEN).resolve()
    monkeypatch.setenv(ROOT, str(tmp_path / "own"))
    assert locate(QWEN) == (tmp_path / "own" / QWEN).resolve()
    assert find("dino") is None and find("") is None


@pytest.mark.fault
def test_a_missing_folder_says_how_to_fill_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(FileNotFoundError, match="no folder checkpoints/laptop/clip; restore it with 'git checkout"):
        locate("checkpoints/laptop/clip")
    with pytest.raises(FileNotFoundError, match="no folder .*models/dino: README.md says what belongs there"):
        locate("dino")
    monkeypatch.setenv(ROOT, str(tmp_path))
    with pytest.raises(FileNotFoundError, match=f"hf download {QWEN} --revision 895c3a49.* --local-dir {tmp_path}"):
        locate(QWEN)


def serve(monkeypatch: pytest.MonkeyPatch, answer: Path | Exception) -> list[tuple[str, str | None]]:
    """The hub gives `answer`; what it was asked for."""
    asked = []

    def snapshot_download(name: str, *, revision: str | None, allow_patterns: list[str] | None) -> str:
        asked.append((name, revision))
        if isinstance(answer, Exception):
            raise answer
        return str(answer)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    return asked


def response(status: int) -> httpx.Response:
    return httpx.Response(status, request=httpx.Request("GET", "https://example.org"))


@pytest.mark.fault
@pytest.mark.parametrize(
    "error, sentence",
    [
        (GatedRepoError("no", response=response(403)), "to registered users only: ask for access"),
        (RepositoryNotFoundError("no", response=response(404)), "no repository .*: check the name in the profile"),
        (RevisionNotFoundError("no", response=response(404)), "no longer has the revision 895c3a49"),
        (LocalEntryNotFoundError("no"), "the hub cannot be reached: where there is a network run 'hf download"),
        (OfflineModeIsEnabled("no"), "the hub cannot be reached"),
    ],
)
def test_what_the_hub_refuses_is_one_sentence(error: Exception, sentence: str, monkeypatch: pytest.MonkeyPatch) -> None:
    serve(monkeypatch, error)
    with pytest.raises(FileNotFoundError, match=sentence) as caught:
        locate(QWEN)
    assert "\n" not in str(caught.value)


@pytest.mark.fault
def test_a_download_is_pinned_and_compared_with_the_published_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "model.pth").write_bytes(b"weights")
    pin = Pin("0" * 40, ("*",), {"model.pth": hashlib.sha256(b"weights").hexdigest()})
    monkeypatch.setitem(PINS, "some/model", pin)
    asked = serve(monkeypatch, tmp_path)
    assert locate("some/model") == tmp_path and asked == [("some/model", "0" * 40)]
    (tmp_path / "model.pth").write_bytes(b"weigh")
    with pytest.raises(DamagedFileError, match="model.pth is not the published file: delete it"):
        locate("some/model")
