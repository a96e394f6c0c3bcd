"""The sticker world: scenes with known truth, and the small models that learn from it."""
