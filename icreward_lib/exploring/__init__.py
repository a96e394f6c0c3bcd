"""Generated videos, one sample at a time, with all that metrics and rewards say of them: tables, pictures, widgets."""

from icreward_lib.exploring.material import Material, gather
from icreward_lib.exploring.tables import agreement, disagreements, moved_picks, ranking, score_table
from icreward_lib.exploring.views import TITLES, PairView, SampleView

__all__ = [
    "TITLES",
    "Material",
    "PairView",
    "SampleView",
    "agreement",
    "disagreements",
    "gather",
    "moved_picks",
    "ranking",
    "score_table",
]
