"""ICReward: learning image-to-video consistency rewards."""

__version__ = "0.1.0"
