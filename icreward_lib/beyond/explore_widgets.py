"""Views: a few controls and what follows them, plain HTML and a picture.

What a view shows first is also what a page without a kernel shows, so that nothing is lost where widgets are.
"""

import html
import io
from collections.abc import Sequence
from typing import Any

import ipywidgets as widgets
import matplotlib as mpl
import numpy as np
import pandas as pd
import torch
from PIL import Image

from icreward_lib.beyond.explore import METRICS, Material, disagreements, ranking
from icreward_lib.figures import METRIC_NAMES, NAMES
from icreward_lib.metrics.vbench import DIMENSIONS
from icreward_lib.rewards.base import interpolate_frames
from icreward_lib.rewards.icreward import group_times, upsample_maps
from icreward_lib.video import Video, contact_sheet, video_html

TITLES = {name: {**NAMES, **METRIC_NAMES}[name] for name in METRICS}
ORDERS = {"rank correlation": "correlation", "cost of the other's pick": "cost"}
LISTED = 8  # samples that are listed, of those on which two metrics disagree
PLAYED = 3  # and whose picks are played
CELL = 80  # pixels of a frame in pictures


def frame_scores(groups: np.ndarray, weight: float, num_frames: int) -> np.ndarray:
    """Scores (K, T) of frames at the subject's weight, from those of groups (K, G, 2)."""
    times = group_times(num_frames, groups.shape[1])
    return np.asarray(interpolate_frames(_weighed(groups, weight), times, num_frames))


def consistency_maps(tokens: np.ndarray, weight: float, shape: tuple[int, int, int]) -> np.ndarray:
    """Maps (K, T, H, W) in [0, 1], 1 = kept, at the subject's weight, from tokens (K, G, h, w, 2); shape: T, H, W."""
    return upsample_maps(_weighed(tokens, weight), shape)


def _weighed(parts: np.ndarray, weight: float) -> torch.Tensor:
    return torch.from_numpy(parts).float() @ torch.tensor([weight, 1 - weight])


def overlay(video: Video, maps: np.ndarray) -> Video:
    """A clip in grey under its maps (T, H, W): blue where the image is kept, red where it is not."""
    colours = mpl.colormaps["RdBu"](maps)[..., :3] * 255
    mixed = 0.35 * video.frames.mean(-1, keepdims=True) + 0.65 * colours
    return Video(mixed.round().astype(np.uint8), video.fps)


def map_sheet(material: Material, position: int, weight: float) -> np.ndarray:
    """A sample's videos, with ICReward's scores of their frames, beside its maps of them: uint8 (H, W, 3)."""
    image, clips = material.clips(position)
    scores = frame_scores(material.groups[position], weight, clips[0].num_frames)
    maps = consistency_maps(material.tokens[position], weight, clips[0].frames.shape[:3])
    marks = {f"video {k}": own for k, own in enumerate(scores)}
    covered = [overlay(clip, each) for clip, each in zip(clips, maps, strict=True)]
    left, right = (
        contact_sheet(image, dict(zip(marks, each, strict=True)), scores=marks, width=CELL) for each in (clips, covered)
    )
    return np.concatenate([left, np.full((len(left), 24, 3), 255, np.uint8), right], axis=1)


class View:
    """Controls, and bodies that follow them; the title stands in their place where there is no kernel."""

    def __init__(self, controls: Sequence[widgets.Widget], title: str) -> None:
        self.players, self.tables, self.sheet = widgets.HTML(), widgets.HTML(), widgets.Image(format="png")
        self.tables.add_class("jp-RenderedHTMLCommon")  # as JupyterLab lays out any other table
        self.sheet.layout.align_self = "flex-start"  # or it is stretched
        self.box = widgets.VBox([widgets.HBox(controls), self.tables, self.players, self.sheet])
        self._title = title

    @property
    def html(self) -> str:
        """What it shows now, but for the picture, for a page without a kernel."""
        return f"{self.tables.value}{self.players.value}"

    @property
    def picture(self) -> bytes:
        """The picture that it shows now, a PNG."""
        return bytes(self.sheet.value)  # a memory view, once the browser has it

    def _repr_mimebundle_(self, **kwargs: object) -> dict[str, Any]:
        return {**self.box._repr_mimebundle_(**kwargs), "text/plain": f"{self._title} (the controls need a kernel)"}


class SampleView(View):
    """One sample: its videos, all scores, and the ranking and the maps at a weight."""

    def __init__(self, material: Material, position: int = 0) -> None:
        self.material = material
        options = [(material.title(i), i) for i in range(len(material.samples))]
        self.sample = widgets.Dropdown(options=options, value=position, description="Sample")
        self.weight = widgets.FloatSlider(material.weight, min=0, max=1, step=0.05, description="Subject")
        super().__init__([self.sample, self.weight], material.title(position))
        self.sample.observe(self._show_sample, "value")
        self.weight.observe(self._show_weighed, "value")
        self._show_sample()

    def _show_sample(self, _: object = None) -> None:
        _, clips = self.material.clips(self.sample.value)
        self.players.value = video_html({f"video {k}": clip for k, clip in enumerate(clips)}, width=128)
        self._show_weighed()

    def _show_weighed(self, _: object = None) -> None:
        position, weight = self.sample.value, self.weight.value
        ranked = []
        for name, parts in self.material.parts.items():
            own = {d: parts[d][position] for d in DIMENSIONS}
            usual = ranking(own, self.material.weight)
            ranked.append(f"<td>{_ranking_html(TITLES[name], ranking(own, weight), usual)}</td>")
        scores = {TITLES[name]: values[position] for name, values in self.material.scores.items()}
        self.tables.value = (
            f"<p>{html.escape(self.material.samples[position].prompt)}</p>"
            + _score_html(pd.DataFrame(scores).rename_axis("video"))
            + f"<p>Ranked with the subject at {weight:.2f} and the background at {1 - weight:.2f}; arrows: "
            f"places won or lost since {self.material.weight:.2f}.</p>"
            f"<table><tr>{''.join(ranked)}</tr></table>"
        )
        self.sheet.value = _png(map_sheet(self.material, position, weight))


class PairView(View):
    """Two metrics, and the samples on which they disagree most, with what each picks."""

    def __init__(self, material: Material, first: str = "clipsim", second: str = "icreward") -> None:
        self.material = material
        names = [(title, name) for name, title in TITLES.items()]
        self.first = widgets.Dropdown(options=names, value=first, description="Metric")
        self.second = widgets.Dropdown(options=names, value=second, description="against")
        self.order = widgets.Dropdown(options=list(ORDERS.items()), value="cost", description="worst by")
        super().__init__([self.first, self.second, self.order], f"{TITLES[first]} against {TITLES[second]}")
        for control in (self.first, self.second, self.order):
            control.observe(self._show, "value")
        self._show()

    def _show(self, _: object = None) -> None:
        metrics = self.first.value, self.second.value
        first, second = (self.material.scores[name] for name in metrics)
        table = disagreements(first, second, self.order.value)
        titles = [TITLES[name] for name in metrics]
        columns = {name: title for title, name in ORDERS.items()}
        columns |= {"pick_first": f"{titles[0]} picks video", "pick_second": f"{titles[1]} picks video"}
        shown = table.head(LISTED).rename(columns=columns)
        shown.index = pd.Index([html.escape(self.material.title(i)) for i in shown.index])
        self.tables.value = shown.to_html(float_format="{:.2f}".format, border=0, escape=False, na_rep="none")
        players: dict[str, Video] = {}
        sheets = []
        for i, *picked in table.head(PLAYED)[["pick_first", "pick_second"]].itertuples():
            (image, clips), place = self.material.clips(i), self.material.title(i)
            named = {f"{place}, {title}'s pick {k}": clips[k] for title, k in zip(titles, picked, strict=True)}
            players |= named
            sheets.append(contact_sheet(image, named, width=CELL))
        self.players.value = video_html(players, width=128, columns=2)
        self.sheet.value = _png(np.concatenate(sheets))


def _score_html(table: pd.DataFrame) -> str:
    """Every metric's best video in bold."""
    text = table.map("{:.3f}".format)
    return text.mask(table.eq(table.max()), "<b>" + text + "</b>").to_html(border=0, escape=False)


def _ranking_html(title: str, now: pd.DataFrame, usual: pd.DataFrame) -> str:
    """A ranking with bars, and how far each video has moved since the usual one."""
    before = dict(zip(usual["video"], usual.index, strict=True))
    rows = []
    for rank, video, score in now.itertuples():
        gained = before[video] - rank
        arrow = f"▲{gained}" if gained > 0 else f"▼{-gained}" if gained < 0 else ""
        bar = ("█" * round(12 * score)).ljust(12, "░")
        rows.append(f"<tr><td>{rank}</td><td>video {video}</td><td>{bar} {score:.3f}</td><td>{arrow}</td></tr>")
    return f"<b>{title}</b><table>{''.join(rows)}</table>"


def _png(picture: np.ndarray) -> bytes:
    # A third of the bytes, as it is kept twice in an executed notebook: in the widget and beside it.
    buffer = io.BytesIO()
    Image.fromarray(picture).quantize(256).save(buffer, "png", optimize=True)
    return buffer.getvalue()
