"""What sticker-world scenes are made of: glyphs, colours, photographs and movements that come by pip."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, lru_cache
from pathlib import Path

import matplotlib
import numpy as np
import skimage.data
import torch
import torch.nn.functional as F
from matplotlib.ft2font import FT2Font
from PIL import Image, ImageDraw, ImageFilter, ImageFont
from scipy import ndimage
from sklearn.datasets import load_sample_image

_MATPLOTLIB = Path(matplotlib.get_data_path())
_FONT = _MATPLOTLIB / "fonts" / "ttf" / "DejaVuSans.ttf"
# Name -> code point in DejaVu Sans, the font that matplotlib ships.
SUBJECTS: dict[str, int] = {
    "sun": 0x2600, "cloud": 0x2601, "umbrella": 0x2602, "comet": 0x2604, "star": 0x2605, "telephone": 0x260E,
    "cup": 0x2615, "clover": 0x2618, "trefoil": 0x2622, "biohazard": 0x2623, "caduceus": 0x2624, "ankh": 0x2625,
    "crescent": 0x262A, "taijitu": 0x262F, "smiley": 0x263B, "king": 0x265A, "queen": 0x265B, "rook": 0x265C,
    "bishop": 0x265D, "pawn": 0x265F, "spade": 0x2660, "club": 0x2663, "diamond": 0x2666, "note": 0x266C,
    "recycling": 0x267B, "die": 0x2684, "flag": 0x2691, "hammer": 0x2692, "sword": 0x2694, "balance": 0x2696,
    "alembic": 0x2697, "lightning": 0x26A1, "envelope": 0x2709, "hand": 0x270C, "pencil": 0x270F, "cross": 0x2720,
    "asterisk": 0x2731, "blossom": 0x273F, "snowflake": 0x2744, "arrow": 0x27A1, "mouse": 0x1F42D, "cat": 0x1F431,
    "monkey": 0x1F435,
    "knight": 0x265E, "anchor": 0x2693, "airplane": 0x2708, "snowman": 0x2603, "cow": 0x1F42E, "helm": 0x2638,
    "heart": 0x2665, "skull": 0x2620, "scissor": 0x2702, "lily": 0x269C, "urn": 0x26B1, "gear": 0x2699,
}  # fmt: skip
UNSEEN_SUBJECTS = frozenset("knight anchor airplane snowman cow helm heart skull scissor lily urn gear".split())

COLOURS: dict[str, tuple[float, float, float]] = {
    "red": (0.86, 0.12, 0.14), "orange": (0.97, 0.55, 0.10), "yellow": (0.98, 0.87, 0.18), "green": (0.16, 0.62, 0.24),
    "teal": (0.08, 0.60, 0.62), "blue": (0.13, 0.29, 0.80), "purple": (0.49, 0.20, 0.68), "pink": (0.96, 0.46, 0.68),
    "brown": (0.45, 0.27, 0.14), "black": (0.09, 0.09, 0.11),
}  # fmt: skip

CAMERAS = ("static", "pans left", "pans right", "pans up", "pans down", "zooms in", "zooms out")
MOTIONS = ("stays still", "moves left", "moves right", "moves up", "moves down", "spins", "grows")
#: To the right and down, of pans and moves.
DIRECTIONS = {"left": (-1.0, 0.0), "right": (1.0, 0.0), "up": (0.0, -1.0), "down": (0.0, 1.0)}
# Combinations of camera and subject movement that no seen scene has.
UNSEEN_MOVES = frozenset({
    ("pans left", "moves up"), ("pans right", "spins"), ("pans up", "grows"), ("pans down", "moves left"),
    ("zooms in", "moves right"), ("zooms out", "moves down"), ("static", "spins"),
})  # fmt: skip


@dataclass(frozen=True)
class Photograph:
    """A photograph that comes with a package, and who is to be credited."""

    load: Callable[[], np.ndarray]  # -> uint8, "h w" or "h w c"
    credit: str


PHOTOGRAPHS: dict[str, Photograph] = {
    "astronaut": Photograph(skimage.data.astronaut, "NASA, Eileen Collins, public domain (scikit-image)"),
    "tabby": Photograph(skimage.data.chelsea, "Chelsea the cat, Stéfan van der Walt, CC0 (scikit-image)"),
    "coffee": Photograph(skimage.data.coffee, "Rachel Michetti, public domain (scikit-image)"),
    "galaxies": Photograph(skimage.data.hubble_deep_field, "Hubble eXtreme Deep Field, NASA/ESA (scikit-image)"),
    "tissue": Photograph(skimage.data.immunohistochemistry, "Colonic glands, CMMI, no restrictions (scikit-image)"),
    "motorcycle": Photograph(
        lambda: skimage.data.stereo_motorcycle()[0],
        "Middlebury 2014 stereo benchmark, CC0, D. Scharstein (scikit-image)",
    ),
    "rocket": Photograph(skimage.data.rocket, "SpaceX, CC0 (scikit-image)"),
    "bricks": Photograph(skimage.data.brick, "CC0Textures, CC0 (scikit-image)"),
    "grass": Photograph(skimage.data.grass, "Linolafett on DeviantArt, CC0 (scikit-image)"),
    "moon": Photograph(skimage.data.moon, "Lunar surface, NASA, public domain (scikit-image)"),
    "coins": Photograph(skimage.data.coins, "Greek coins, Brooklyn Museum, no known restrictions (scikit-image)"),
    "cameraman": Photograph(skimage.data.camera, "Lav Varshney, CC0 (scikit-image)"),
    "temple": Photograph(lambda: load_sample_image("china.jpg"), "Daniel Buechele, CC BY 2.0 (scikit-learn)"),
    "dahlia": Photograph(lambda: load_sample_image("flower.jpg"), "vultilion, CC BY 2.0 (scikit-learn)"),
    "retina": Photograph(skimage.data.retina, "Häggström 2014, CC0 (scikit-image)"),
    "gravel": Photograph(skimage.data.gravel, "CC0Textures, CC0 (scikit-image)"),
    "admiral": Photograph(
        lambda: np.asarray(Image.open(_MATPLOTLIB / "sample_data" / "grace_hopper.jpg")),
        "Grace Hopper, United States Navy, public domain (matplotlib)",
    ),
}
UNSEEN_PHOTOGRAPHS = frozenset(("dahlia", "retina", "gravel", "admiral"))
#: What the names of `COLLAGES` pictures begin with that `background` makes of seen photographs.
COLLAGE, COLLAGES = "collage ", 512


@cache
def letters() -> tuple[str, ...]:
    """Letters of DejaVu Sans: subjects without a name, none of which looks like a glyph of `SUBJECTS`."""
    return tuple(sorted(chr(code) for code in FT2Font(str(_FONT)).get_charmap() if chr(code).isalpha()))


@lru_cache(maxsize=COLLAGES)
def background(name: str, short_side: int, defocus: float) -> torch.Tensor:
    """The `photograph` of that name, or "collage N": two seen ones, turned, in other colours, torn and joined.

    "3 h w" float32 in [0, 1], a collage square. Its number fixes every draw.
    """
    if name in PHOTOGRAPHS:
        return photograph(name, short_side, defocus)
    rng = np.random.default_rng([int(name.removeprefix(COLLAGE)), 8])
    names = rng.choice([name for name in PHOTOGRAPHS if name not in UNSEEN_PHOTOGRAPHS], 2, replace=False)
    parts = []
    for each in names:
        whole = photograph(str(each), 2 * short_side, defocus)
        side = int(rng.integers(short_side, 2 * short_side + 1))
        top, left = (int(rng.integers(length - side + 1)) for length in whole.shape[1:])
        part = torch.rot90(whole[:, top : top + side, left : left + side], int(rng.integers(4)), (1, 2))
        part = F.interpolate(part[None], (short_side, short_side), mode="bilinear", antialias=True)[0]
        parts.append(turned_colours(part, rng).clamp(0, 1))
    tear = F.interpolate(torch.from_numpy(rng.normal(size=(1, 1, 4, 4))).float(), (short_side,) * 2, mode="bicubic")[0]
    first, second = parts
    return torch.where(tear > 0, first, second)


def turned_colours(pixels: torch.Tensor, rng: np.random.Generator) -> torch.Tensor:
    """Colours "... 3 h w" turned about grey by a random rotation or reflection of their space."""
    turn = torch.from_numpy(np.linalg.qr(rng.normal(size=(3, 3)))[0]).float()
    return torch.einsum("dc,...chw->...dhw", turn, pixels - 0.5) + 0.5


@cache
def photograph(name: str, short_side: int, defocus: float) -> torch.Tensor:
    """A photograph "3 h w" float32 in [0, 1], shrunk and blurred (standard deviation `defocus` in its pixels).

    Sampled from full size, a moving camera would alias into flicker that no autoencoder keeps.
    """
    picture = Image.fromarray(PHOTOGRAPHS[name].load()).convert("RGB")
    scale = short_side / min(picture.size)
    size = (round(picture.width * scale), round(picture.height * scale))
    picture = picture.resize(size, Image.Resampling.LANCZOS).filter(ImageFilter.GaussianBlur(defocus))
    return torch.from_numpy(np.array(picture)).permute(2, 0, 1).float() / 255


@cache
def sticker_layers(subject: str, size: int) -> torch.Tensor:
    """Ink, body (ink without holes) and cut (body and border) of a subject's sticker, a name in `SUBJECTS` or a letter.

    "3 size size" float32 coverage in [0, 1]; the cut fills the square up to a margin of one pixel.
    """
    big = 8 * size
    font = ImageFont.truetype(str(_FONT), big)
    glyph = chr(SUBJECTS[subject]) if subject in SUBJECTS else subject
    left, top, right, bottom = font.getbbox(glyph)
    font = font.font_variant(size=round(big * 0.80 * big / max(right - left, bottom - top)))
    left, top, right, bottom = font.getbbox(glyph)
    canvas = Image.new("L", (big, big), 0)
    ImageDraw.Draw(canvas).text((big / 2 - (left + right) / 2, big / 2 - (top + bottom) / 2), glyph, 255, font=font)
    ink = np.asarray(canvas) > 127
    border = 0.05 * big
    ink = ndimage.distance_transform_edt(~ink) <= border / 4  # thin strokes would not survive the shrinking
    body = ndimage.binary_fill_holes(ink)
    cut = ndimage.distance_transform_edt(~body) <= border
    layers = torch.from_numpy(np.stack([ink, body, cut])).float()
    return F.avg_pool2d(layers, 8)
