"""The embedded default: a generated image world, its data sets, and a small CLIP pre-trained on it."""
