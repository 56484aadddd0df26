"""Read segmentation models that TerraTorch has fine-tuned."""
