"""Generate other modalities: token sampling, diffusion, thinking in modalities."""
