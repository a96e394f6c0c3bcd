"""ICReward: learning image-to-video consistency rewards."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from icreward_lib.score.api import ICReward

__version__ = "0.1.0"
__all__ = ["ICReward", "__version__"]


def __getattr__(name: str) -> Any:
    """Load `ICReward`, and all that it needs, when it is first asked for: `import icreward_lib` is quick."""
    if name == "ICReward":
        from icreward_lib.score.api import ICReward

        return ICReward
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
