"""The towers compute what open_clip's compute from the same weights, to 1e-5 in float32.

Expected values: open_clip_torch, models of a few thousand random weights, built as its ViT and RN50 entries are.
"""

from __future__ import annotations

import pytest
import torch
from open_clip.model import CLIP as OpenClip
from open_clip.model import CLIPTextCfg, CLIPVisionCfg

from clip import clip
from clip.backbones import checkpoint as weights

LIMIT = 1e-5
TEXTS = ["a photo of a cat.", "a photo of a dog, a type of pet.", "", "X X X X Highway or Road.", "a " * 75]
VIT = CLIPVisionCfg(layers=3, width=128, head_width=64, patch_size=16, image_size=64)
RESNET = CLIPVisionCfg(layers=(1, 2, 1, 1), width=16, head_width=64, image_size=64)


@pytest.fixture(scope="module", params=["vit quick gelu", "vit gelu", "resnet quick gelu"])
def pair(request):
    """open_clip's model and ours with its weights."""
    quick = "quick" in request.param
    torch.manual_seed(0)
    text = CLIPTextCfg(context_length=77, vocab_size=49408, width=128, heads=2, layers=3)
    reference = OpenClip(96, RESNET if "resnet" in request.param else VIT, text, quick_gelu=quick)
    for name, tensor in reference.state_dict().items():  # as after training: no zeros and ones, no all but zero weights
        if tensor.is_floating_point() and tensor.dim() == 1:
            tensor += 0.2 * torch.randn_like(tensor).abs() if "running_var" in name else 0.2 * torch.randn_like(tensor)
    reference.eval()
    return reference, weights.clip_from_state_dict(reference.state_dict(), quick_gelu=quick)


@pytest.fixture(scope="module")
def images():
    return torch.randn(5, 3, 64, 64, generator=torch.Generator().manual_seed(1))


@torch.no_grad()
def test_image_features(pair, images):
    reference, ours = pair
    expected = reference.encode_image(images)
    assert expected.std() > 0.1
    assert (ours.encode_image(images) - expected).abs().max() < LIMIT


@torch.no_grad()
def test_text_features(pair):
    reference, ours = pair
    tokens = clip.tokenize(TEXTS)
    expected = reference.encode_text(tokens)
    assert expected.std() > 0.1
    assert (ours.encode_text(tokens) - expected).abs().max() < LIMIT


@torch.no_grad()
def test_logits(pair, images):
    reference, ours = pair
    tokens = clip.tokenize(TEXTS)
    image, text, scale = reference(images, tokens)
    per_image, per_text = ours(images, tokens)
    assert (per_image - scale * image @ text.t()).abs().max() < 20 * LIMIT  # logits are about 14 times a cosine
    assert torch.equal(per_text, per_image.t())


@torch.no_grad()
def test_the_transformer_called_by_itself(pair):
    """Trainers of the lineage run `clip_model.transformer` on rows of their own, positions first."""
    reference, ours = pair
    rows = torch.randn(2, 77, 128, generator=torch.Generator().manual_seed(2))
    expected = reference.transformer(rows, attn_mask=reference.attn_mask)
    assert (ours.transformer(rows.permute(1, 0, 2)).permute(1, 0, 2) - expected).abs().max() < LIMIT


def test_the_state_dict_goes_back(pair):
    reference, ours = pair
    missing, unexpected = reference.load_state_dict(ours.state_dict(), strict=False)
    assert not missing and not unexpected
    assert all(torch.equal(ours.state_dict()[name], value) for name, value in reference.state_dict().items())


def test_attention_heads_are_read_from_the_widths(pair):
    reference, ours = pair
    assert ours.transformer.resblocks[0].heads == 2
    if hasattr(reference.visual, "transformer"):
        assert ours.visual.transformer.resblocks[0].heads == reference.visual.transformer.resblocks[0].attn.num_heads
    else:
        assert ours.visual.attnpool.num_heads == reference.visual.attnpool.num_heads
