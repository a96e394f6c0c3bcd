"""The card of the curated set: what is in it, where it comes from, what it is not for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from icreward_lib.run.profile import Profile
from icreward_lib.world.content import PHOTOGRAPHS, SUBJECTS, UNSEEN_MOVES, UNSEEN_PHOTOGRAPHS, UNSEEN_SUBJECTS


def dataset_card(summary: Mapping[str, Any], profile: Profile) -> str:
    """The card of a curated set, from what notebook 01 records of it."""
    public = profile.models.labels == "vbench"
    splits = ", ".join(f"{name} {count}" for name, count in summary["splits"].items())
    anchors = "; ".join(f"{d}: {low:.3f} to {high:.3f}" for d, (low, high) in summary["anchors"].items())
    images = "the VBench++ image suite with their prompts" if profile.data.suite else "the sticker world with captions"
    networks = "DINO and DreamSim" if public else "EfficientNet-Lite0 features (which stand in for DINO and DreamSim)"
    raw, own = summary["autoencoded_gap_raw"], summary["autoencoded_gap"]
    kinds = "; ".join(f"{kind} {sum(counts.values())}" for kind, counts in summary["kinds"].items())
    as_seen = f"""**The reference of a label is the image as the generator sees it**: encoded and decoded by its
autoencoder, whatever videos there are. Against the image itself an autoencoded true clip scores {raw:.3f} below the
true clip, against the image as seen {own:.3f}: labels should measure the generator, not the blur of its autoencoder."""
    as_is = f"""**The reference of a label is the image itself.** An autoencoded real clip scores {raw:.3f} below the
real clip: so much of a label is the autoencoder's blur."""
    return f"""# The curated set

**What.** {summary["samples"]} reference images of {images}, {summary["videos"]} videos that the
generator made of them, all of which are used (the poster kept two of five), and
{summary["low_score_added"]} added videos of low label. Splits by image: {splits};
{summary["unseen_test_samples"]} test images have content that is held out from all training.

**Label.** VBench++'s `i2v_subject` and `i2v_background` formulas on {networks}.
Each is mapped so that 0 is the median score against another sample's image and 1 that of a frozen
copy (raw scores at these two points: {anchors}), clipped, and the two are averaged. Nobody annotated anything: labels
are computed.

{as_seen if profile.labels.reference == "as_seen" else as_is}

**Known limits.** A frozen clip has the best label. The formula's maximum forgives slow drift, and as the first frame
nearly is the reference, what varies most is how alike neighbouring frames are. The label's standard deviation is
{summary["label_spread_within"]:.3f} within an image and {summary["label_spread_between"]:.3f} between images.

**Content.** {kinds}.

{"" if profile.data.suite else _sticker_world()}"""


def _sticker_world() -> str:
    credits = "\n".join(
        f"- {name}{' (held out)' if name in UNSEEN_PHOTOGRAPHS else ''}: {photo.credit}"
        for name, photo in PHOTOGRAPHS.items()
    )
    return f"""{len(SUBJECTS)} glyphs of the font DejaVu Sans ({len(UNSEEN_SUBJECTS)} held out), {len(PHOTOGRAPHS)}
photographs ({len(UNSEEN_PHOTOGRAPHS)} held out), 49 combinations of camera and subject movement
({len(UNSEEN_MOVES)} held out). Two
photographs show people (an astronaut, an admiral), both in the public domain.

**Photographs.**

{credits}
"""
