"""The part of CLIP's vocabulary that the small model knows; only these rows of the token table are shipped."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import torch

import clip
from shapes_world.captions import STYLE_TEMPLATES, TEMPLATES
from shapes_world.world import COLOURS, GLYPHS, PATTERNS, SHAPES

# CLIP's byte-pair vocabulary starts with the 256 bytes and the 256 bytes at a word's end; a placeholder word, as
# in "X X X X {}.", and any word spelled letter by letter are made of these.
SINGLE_CHARACTERS = 512


def known_token_ids() -> torch.Tensor:
    """Ids of all tokens that captions, class names and single characters use, ascending, shape (rows,), int64."""
    words = " ".join((*COLOURS, *PATTERNS, *SHAPES, *GLYPHS, "shape")).split()
    templates = TEMPLATES + tuple(t for options in STYLE_TEMPLATES.values() for t in options)
    texts = words + [template.format(word) for template in templates for word in ("shape", "letter")]
    return torch.unique(torch.cat([clip.tokenize(texts).flatten().long(), torch.arange(SINGLE_CHARACTERS)]))


class RestrictedTokenizer:
    """Texts to row numbers of the restricted token table, cut to the longest text.

    The ids ascend, so the end-of-text token stays the largest number of each row, as CLIP's text tower expects.
    """

    def __init__(self, token_ids: torch.Tensor):
        self.token_ids = token_ids
        self._rows = cache(self._to_rows)

    def __call__(self, texts: Sequence[str]) -> torch.Tensor:
        """Row numbers, (len(texts), longest), int64; positions after the end of a text have row 0.

        Raises:
            KeyError: a text has a token that is not in the table.
        """
        rows = [self._rows(text) for text in texts]
        longest = max(map(len, rows))
        return torch.tensor([row + [0] * (longest - len(row)) for row in rows])

    def _to_rows(self, text: str) -> list[int]:
        ids = clip.tokenize([text])[0].long()
        ids = ids[: int(ids.argmax()) + 1]  # through end-of-text
        rows = torch.searchsorted(self.token_ids, ids).clamp(max=len(self.token_ids) - 1)
        if not torch.equal(self.token_ids[rows], ids):
            raise KeyError(f"the text {text!r} has tokens outside the restricted vocabulary")
        return rows.tolist()
