"""Words of class names that a backbone has never seen: the small model ships the token rows of its own world only."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from clip.clip import shared_tokenizer
from clip.model import CLIP
from trainers.core.templates import readable

_UNKNOWN = -1


@torch.no_grad()
def unknown_words(clip: CLIP, classnames: Sequence[str]) -> tuple[list[str], list[list[str]]]:
    """Words with a token whose row in the token table is zero, and the classes that are one text because of them.

    Returns:
        The words in the order of the classes, each once; and groups of class names that coincide.
    """
    tokenizer = shared_tokenizer()
    words = {word: tokenizer.encode(word) for name in classnames for word in readable(name).split()}
    ids = sorted({token for tokens in words.values() for token in tokens})
    rows = clip.token_embedding.weight[torch.tensor(ids, dtype=torch.long, device=clip.token_embedding.weight.device)]
    known = {token for token, seen in zip(ids, rows.ne(0).any(dim=1).tolist(), strict=True) if seen}  # rows [ids, d]
    groups: dict[tuple[int, ...], list[str]] = {}
    for name in classnames:
        tokens = [token for word in readable(name).split() for token in words[word]]
        groups.setdefault(tuple(token if token in known else _UNKNOWN for token in tokens), []).append(name)
    coinciding = [names for tokens, names in groups.items() if _UNKNOWN in tokens and len(names) > 1]
    return [word for word, tokens in words.items() if not known.issuperset(tokens)], coinciding


def warn_of_unknown_words(clip: CLIP, classnames: Sequence[str], backbone: str) -> None:
    """Print the words that the backbone has never seen, and the classes that it cannot tell apart for that reason."""
    words, coinciding = unknown_words(clip, classnames)
    if not words:
        return
    print(f"Warning: the backbone {backbone} has never seen these words of class names: {', '.join(map(repr, words))}")
    for names in coinciding:
        print(f"Warning: to it these classes are one and the same: {', '.join(map(repr, names))}")
