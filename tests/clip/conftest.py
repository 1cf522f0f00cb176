"""Tiny CLIPs with random weights."""

from __future__ import annotations

import pytest
import torch

from clip.model import CLIP

VOCABULARY = 300
START, END = VOCABULARY - 2, VOCABULARY - 1


@pytest.fixture(scope="session")
def random_clip():
    """A CLIP of two heads and three layers a tower, float64, with a vocabulary of 300 tokens."""
    torch.manual_seed(0)
    model = CLIP(
        embed_dim=24,
        image_resolution=32,
        vision_layers=3,
        vision_width=128,
        vision_patch_size=16,
        context_length=77,
        vocab_size=VOCABULARY,
        transformer_width=128,
        transformer_heads=2,
        transformer_layers=3,
    )
    for parameter in model.parameters():  # biases and layer norms of a trained model are not zeros and ones
        parameter.data += 0.1 * torch.randn_like(parameter) * max(parameter.std().item() if parameter.dim() else 0, 0.3)
    return model.double().requires_grad_(False).eval()
