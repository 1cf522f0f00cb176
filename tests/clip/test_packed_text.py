"""The packed text tower equals a plain one that computes all 77 positions of every prompt.

Expected values: tests/helpers/plain_clip.py, which packs and shares nothing.
"""

from __future__ import annotations

import plain_clip
import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from clip.model import convert_weights
from clip.packed_text import PackedPrompts, encode_prompts

VOCABULARY = 300
START, END = VOCABULARY - 2, VOCABULARY - 1
WIDTH = 128


def prompts_of(bodies: list[list[int]]) -> torch.Tensor:
    """Token ids [C, 77] with start and end marks."""
    tokens = torch.zeros(len(bodies), 77, dtype=torch.long)
    for row, body in zip(tokens, bodies, strict=True):
        row[: len(body) + 2] = torch.tensor([START, *body, END])
    return tokens


def random_bodies(seed: int, classes: int, shortest: int, longest: int, shared: int = 0) -> list[list[int]]:
    """Random prompts, the first `shared` tokens the same in all."""
    generator = torch.Generator().manual_seed(seed)
    common = torch.randint(1, START, (shared,), generator=generator).tolist()
    lengths = torch.randint(shortest, longest + 1, (classes,), generator=generator).tolist()
    return [common + torch.randint(0, START, (n,), generator=generator).tolist() for n in lengths]


def noise(*shape: int, seed: int = 1) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def packed_features(clip, tokens, learned=None, context=None, deep=()):
    packed = PackedPrompts.from_tokens(tokens, learned)
    return encode_prompts(clip, packed, *packed.embed(clip, context), deep)


def plain_features(clip, tokens, learned=None, context=None, deep=()):
    """All positions, learned rows put in one by one; context [R, d]."""
    state = clip.state_dict()
    rows = state["token_embedding.weight"][tokens].clone()
    if learned is not None:
        rows = torch.where((learned >= 0)[..., None], context[learned.clamp(min=0)], rows)
    return plain_clip.text_from_rows(state, rows, tokens.argmax(dim=-1), deep)


def slots(classes: int, places: list[int], class_specific: bool = False) -> torch.Tensor:
    """[C, 77] learned row 0, 1, ... at the given places; with `class_specific` every class has its own rows."""
    learned = torch.full((classes, 77), -1)
    learned[:, places] = torch.arange(len(places))
    if class_specific:
        learned[:, places] += len(places) * torch.arange(classes)[:, None]
    return learned


BODIES = {
    "nothing shared": random_bodies(1, classes=6, shortest=1, longest=9),
    "a shared beginning": random_bodies(2, classes=6, shortest=1, longest=9, shared=5),
    "one prompt": random_bodies(3, classes=1, shortest=7, longest=7),
    "empty prompts": [[], [], [5, 6]],
    "full length": random_bodies(4, classes=2, shortest=75, longest=75),
    "the same prompt twice": [[7, 8, 9], [7, 8, 9]],
    "names that share words": [[7, 20, 21, 3], [7, 20, 22, 3], [7, 20, 22, 23, 3]],
    "one is the beginning of another": [[7, 20], [7, 20, 21, 22], [7, 20, 21]],
    "token 0, which also pads": [[7, 0, 0], [7, 0, 0, 0, 4]],
    "an end mark within": [[7, 20, END, 21], [7, 20, 22, 23]],
}


@pytest.mark.parametrize("bodies", BODIES.values(), ids=BODIES.keys())
def test_plain_prompts(random_clip, bodies):
    tokens = prompts_of(bodies)
    expected = plain_features(random_clip, tokens)
    assert expected.abs().max() > 0.1
    torch.testing.assert_close(random_clip.encode_text(tokens), expected, rtol=0, atol=1e-12)
    torch.testing.assert_close(packed_features(random_clip, tokens), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("seed", range(8))
def test_random_prompts_with_learned_rows_anywhere(random_clip, seed):
    """Learned rows at random places inside the shortest prompt, shared or one set per class."""
    classes, shared = 2 + seed % 4, seed % 3
    tokens = prompts_of(random_bodies(seed, classes, shortest=6, longest=12, shared=shared))
    places = (1 + torch.randperm(5, generator=torch.Generator().manual_seed(seed))[: 1 + seed % 4]).tolist()
    class_specific = seed % 2 == 1
    learned = slots(classes, places, class_specific)
    context = noise(len(places) * (classes if class_specific else 1), WIDTH, seed=seed)
    ours = packed_features(random_clip, tokens, learned, context)
    torch.testing.assert_close(ours, plain_features(random_clip, tokens, learned, context), rtol=0, atol=1e-12)


@pytest.mark.parametrize("n", [1, 4])
@pytest.mark.parametrize("depth", [1, 2, 3])
def test_deep_prompts(random_clip, n, depth):
    tokens = prompts_of(random_bodies(5, classes=5, shortest=2, longest=6, shared=n + 1))
    learned, context = slots(5, list(range(1, 1 + n))), noise(n, WIDTH)
    deep = [noise(n, WIDTH, seed=10 + layer) for layer in range(1, depth)]
    ours = packed_features(random_clip, tokens, learned, context, deep)
    expected = plain_features(random_clip, tokens, learned, context, deep)
    torch.testing.assert_close(ours, expected, rtol=0, atol=1e-12)


def test_deep_prompts_need_a_shared_context(random_clip):
    """Deep prompts take the place of rows 1..n, which must be the same rows in every prompt."""
    tokens, n = prompts_of(random_bodies(1, classes=3, shortest=5, longest=6)), 2
    learned = slots(3, [1, 2], class_specific=True)
    with pytest.raises(ValueError, match="shared"):
        packed_features(random_clip, tokens, learned, noise(6, WIDTH), [noise(n, WIDTH)])
    with pytest.raises(ValueError, match="4 layers"):
        packed_features(random_clip, tokens, slots(3, [1, 2]), noise(2, WIDTH), [noise(n, WIDTH)] * 3)


@pytest.mark.parametrize("batch", [(3,), (2, 2)])
def test_a_batch_of_contexts(random_clip, batch):
    """One context per image: as encoding each by itself."""
    tokens = prompts_of(random_bodies(6, classes=4, shortest=1, longest=5, shared=4))
    learned, contexts = slots(4, [1, 2, 3]), noise(*batch, 3, WIDTH)
    ours = packed_features(random_clip, tokens, learned, contexts)
    assert ours.shape == (*batch, 4, 24)
    for ours_of_one, context in zip(ours.reshape(-1, 4, 24), contexts.reshape(-1, 3, WIDTH), strict=True):
        expected = plain_features(random_clip, tokens, learned, context)
        torch.testing.assert_close(ours_of_one, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("dtype, limit", [(torch.float32, 1e-5), (torch.bfloat16, 0.03), (torch.float16, 0.004)])
def test_precisions(random_clip, dtype, limit):
    """In half precision: relative to the largest feature; bfloat16 has 8, float16 11 significant bits."""
    import copy

    clip = copy.deepcopy(random_clip).float()
    convert_weights(clip, dtype)
    tokens = prompts_of(random_bodies(2, classes=6, shortest=1, longest=9, shared=5))
    learned, context = slots(6, [1, 2, 3]), noise(3, WIDTH)
    deep = [noise(3, WIDTH, seed=2)]
    ours = packed_features(clip, tokens, learned, context.float(), [prompt.float() for prompt in deep])
    assert ours.dtype == dtype
    expected = plain_features(random_clip, tokens, learned, context, deep)
    assert (ours.double() - expected).abs().max() < limit * expected.abs().max()


@pytest.mark.parametrize("class_specific", [False, True])
def test_first_and_second_derivatives(random_clip, class_specific):
    """Gradients of a random function of the features, and the gradient of their random projection."""
    classes, n = 4, 2
    tokens = prompts_of(random_bodies(9, classes, shortest=3, longest=6, shared=2))
    learned = slots(classes, [1, 2], class_specific)
    start = [noise(n * (classes if class_specific else 1), WIDTH)]
    if not class_specific:
        start.append(noise(n, WIDTH, seed=4))
    results = []
    for encode in (packed_features, plain_features):
        context, *deep = leaves = [tensor.clone().requires_grad_() for tensor in start]
        with sdpa_kernel(SDPBackend.MATH):  # the fused kernels have no second derivative
            features = encode(random_clip, tokens, learned, context, deep)
            loss = (features.tanh() * noise(*features.shape, seed=5)).sum()
            first = torch.autograd.grad(loss, leaves, create_graph=True)
            along = sum((gradient * noise(*gradient.shape, seed=6)).sum() for gradient in first)
            results.append([*first, *torch.autograd.grad(along, leaves)])
    for ours, expected in zip(*results, strict=True):
        assert expected.norm() > 1e-3
        assert (ours - expected).norm() < 1e-11 * expected.norm()


def test_rows_behind_the_end_mark_are_not_computed(random_clip):
    """What the tower works on: the shared rows once, and each prompt's own."""
    packed = PackedPrompts.from_tokens(prompts_of([[7, 20, 21, 3], [7, 20, 22, 3], [7, 20, 22, 23, 3]]))
    assert len(packed.prefix) == 3  # start mark, 7, 20
    assert len(packed.suffix) == 3 + 3 + 4  # two or three tokens and the end mark
    assert packed.last.tolist() == [2, 5, 9]


def test_learned_rows_need_a_context(random_clip):
    tokens = prompts_of([[1, 2, 3]])
    with pytest.raises(ValueError, match="context"):
        packed_features(random_clip, tokens, slots(1, [1]))
