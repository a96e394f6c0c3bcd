"""Open-Sora 1.2 in the conventions of diffusers: autoencoder, transformer, sampling and the pipeline."""
