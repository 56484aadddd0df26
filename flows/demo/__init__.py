"""The synthetic demo country, and the training of the demo model."""
