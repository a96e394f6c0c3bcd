"""Image-to-video generators: Open-Sora 1.2, and others of diffusers."""
