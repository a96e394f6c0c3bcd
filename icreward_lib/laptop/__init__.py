"""How the small models of `checkpoints/laptop` were trained: one module a model, one resumable loop for all."""
