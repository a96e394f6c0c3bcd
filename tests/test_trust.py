"""What SECURITY.md promises: no file is ever loaded in a way that runs code in it."""

from __future__ import annotations

import ast
import http.server
import json
import pickle
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import numpy as np
import pytest
from support import ROOT
from support.standins_metrics import write_i3d

from icreward_lib.metrics.video_features import I3D_FILE, I3DFeatures
from icreward_lib.poster import networks
from icreward_lib.run import Run
from icreward_lib.run.files import DamagedFileError
from icreward_lib.run.stages import Stage
from icreward_lib.score.intake import IntakeError, read_clip
from icreward_lib.video import Video, write_video

# What runs the code in a file or a text, by module: all of it, or these.
UNSAFE: dict[str, set[str] | None] = {
    **dict.fromkeys(("pickle", "marshal", "shelve", "dill", "cloudpickle", "torch.hub", "torch.package")),
    "joblib": {"load"},
    "pandas": {"read_pickle"},
    "yaml": {"load", "load_all", "full_load", "full_load_all", "unsafe_load", "unsafe_load_all"},
    "torch.jit": {"load"},
    "os": {"system", "popen"},
    "builtins": {"eval", "exec", "compile"},
}
HARMLESS = {"pickle.UnpicklingError", "pickle.PickleError"}
SETTINGS = {"allow_pickle": "False", "trust_remote_code": "False", "shell": "False", "weights_only": "True"}
# TorchScript is code: `networks.video_features` lets the published file through, and what its owner vouches for.
KNOWN = {("icreward_lib/metrics/video_features.py", "torch.jit.load")}


def unsafe(source: str) -> set[str]:
    """What in some Python code could run code out of a file."""
    tree, names, found = ast.parse(source), dict[str, str](), set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {each.asname: each.name for each in node.names if each.asname}
            names |= {each.name.split(".")[0]: each.name.split(".")[0] for each in node.names if not each.asname}
        elif isinstance(node, ast.ImportFrom):
            names |= {each.asname or each.name: f"{node.module}.{each.name}" for each in node.names}

    def full(node: ast.AST) -> str:
        first, dot, rest = ast.unparse(node).partition(".")
        return names.get(first, first if dot else f"builtins.{first}") + dot + rest

    for node in ast.walk(tree):
        if isinstance(node, ast.Name | ast.Attribute):
            name = full(node)
            module, _, member = name.rpartition(".")
            banned = UNSAFE.get(module, set())
            if (banned is None or member in banned) and name not in HARMLESS:
                found.add(name)
        elif isinstance(node, ast.Call):
            given = {word.arg: ast.unparse(word.value) for word in node.keywords}
            if full(node.func) == "torch.load" and "weights_only" not in given:
                found.add("torch.load")
            found |= {f"{name}={given[name]}" for name, safe in SETTINGS.items() if given.get(name, safe) != safe}
    return found


@pytest.mark.parametrize(
    "source",
    [
        "import pickle\npickle.load(file)",
        "import pickle as p\np.Unpickler(file).load()",
        "from pickle import loads\nloads(text)",
        "import joblib\njoblib.load(path)",
        "import pandas as pd\npd.read_pickle(path)",
        "import torch\ntorch.load(path)",
        "import torch\ntorch.load(path, weights_only=safe)",
        "from torch import load\nload(path)",
        "import torch\ntorch.jit.load(path)",
        "import torch as t\nt.hub.load('owner/name', 'model')",
        "import numpy as np\nnp.load(path, allow_pickle=True)",
        "import yaml\nyaml.load(text, yaml.Loader)",
        "from yaml import unsafe_load\nunsafe_load(text)",
        "model = AutoModel.from_pretrained(name, trust_remote_code=True)",
        "import subprocess\nsubprocess.run(words, shell=True)",
        "import os\nos.system(words)",
        "eval(text)",
    ],
)
def test_the_scan_finds_what_runs_code(source: str) -> None:
    assert unsafe(source)


def test_nothing_loads_a_file_in_a_way_that_runs_code() -> None:
    sources = {}
    for path in [*(ROOT / "icreward_lib").rglob("*.py"), *(ROOT / "benchmarks").rglob("*.py")]:
        sources[path.relative_to(ROOT).as_posix()] = path.read_text(encoding="utf-8")
    for path in (ROOT / "notebooks").glob("*.ipynb"):
        cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
        sources[path.name] = "\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "code")
    assert sum(source.count("torch.load(") for source in sources.values()) > 3  # it looks where there is something
    assert {(file, what) for file, source in sources.items() for what in unsafe(source)} == KNOWN


class Trap:
    """Unpickled without care, it makes a file."""

    def __init__(self, sprung: Path) -> None:
        self.sprung = sprung

    def __reduce__(self) -> tuple[object, ...]:
        return Path.touch, (self.sprung,)


@pytest.mark.fault
def test_a_cached_item_with_a_pickle_in_it_is_damaged_and_not_run(tmp_path: Path) -> None:
    trap = Trap(tmp_path / "sprung")
    np.savez(tmp_path / "a.npz", scores=np.array([trap], dtype=object))
    with pytest.raises(DamagedFileError, match="a.npz is damaged"):
        Stage("scores", "0", tmp_path).load_npz("a.npz")
    assert not trap.sprung.exists()
    pickle.loads(pickle.dumps(trap))  # the trap does work
    assert trap.sprung.exists()


@pytest.mark.fault
def test_torchscript_that_nobody_vouches_for_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = cast(Run, SimpleNamespace(model=lambda role: tmp_path, device="cpu"))
    write_i3d(tmp_path)
    assert isinstance(networks.video_features(run), I3DFeatures)  # its owner vouches for it in SHA256SUMS
    (tmp_path / "SHA256SUMS").unlink()
    with pytest.raises(DamagedFileError, match=f"{I3D_FILE} is not the published I3D, and TorchScript files hold code"):
        networks.video_features(run)
    (tmp_path / "SHA256SUMS").write_text("0" * 64 + f"  {I3D_FILE}\n")
    with pytest.raises(DamagedFileError, match="sha256sum"):
        networks.video_features(run)
    assert networks.I3D_SHA256 in (ROOT / "docs" / "paper_scale.md").read_text(encoding="utf-8")
    monkeypatch.setattr(networks, "I3D_SHA256", networks.content_hash(tmp_path / I3D_FILE))
    assert isinstance(networks.video_features(run), I3DFeatures)  # the published file needs no voucher


@pytest.mark.fault
@pytest.mark.parametrize(
    "playlist",
    [
        "#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\n{there}\n#EXT-X-ENDLIST\n",
        "ffconcat version 1.0\nfile '{there}'\n",
        "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=video 9 RTP/AVP 96\na=control:{there}\n",
    ],
)
@pytest.mark.parametrize("name", ["clip.mp4", "clip.m3u8"])
def test_a_playlist_that_calls_itself_a_video_makes_nobody_fetch(tmp_path: Path, playlist: str, name: str) -> None:
    asked = []

    class Listener(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_error(404)

    with http.server.HTTPServer(("127.0.0.1", 0), Listener) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        path = tmp_path / name
        path.write_text(playlist.format(there=f"http://127.0.0.1:{server.server_port}/clip.ts"), encoding="utf-8")
        with pytest.raises(IntakeError, match=f"{name} is not a (readable )?video"):
            read_clip(path)
        server.shutdown()
    assert asked == []


@pytest.mark.fault
def test_a_playlist_opens_no_other_file(tmp_path: Path) -> None:
    write_video(tmp_path / "secret.mp4", Video(np.zeros((3, 16, 16, 3), np.uint8), 8.0))
    (tmp_path / "clip.mp4").write_text("ffconcat version 1.0\nfile secret.mp4\n", encoding="utf-8")
    with pytest.raises(IntakeError, match="clip.mp4 is not a (readable )?video"):
        read_clip(tmp_path / "clip.mp4")
