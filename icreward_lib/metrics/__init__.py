"""What is measured: VBench++ consistency, CLIP similarity, Frechet video distance and motion."""
