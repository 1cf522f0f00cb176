"""CLIP's byte-pair tokenizer: open_clip's, with OpenAI's spelling of the two special tokens."""

from __future__ import annotations

import regex

from clip.backbones.open_clip_files import open_clip_module

_tokenizer = open_clip_module("tokenizer")

START, END = "<|startoftext|>", "<|endoftext|>"


class SimpleTokenizer(_tokenizer.SimpleTokenizer):
    """`encode(text) -> list[int]` without start and end marks, `decode(ids) -> str`, as OpenAI's class of that name."""

    def __init__(self) -> None:
        super().__init__()
        pattern = self.pat.pattern
        for ours, theirs in ((START, "<start_of_text>"), (END, "<end_of_text>")):
            token_id = self.encoder.pop(theirs)
            self.encoder[ours] = token_id
            self.decoder[token_id] = ours
            del self.cache[theirs]
            self.cache[ours] = ours
            pattern = pattern.replace(theirs, regex.escape(ours))
        self.pat = regex.compile(pattern, regex.IGNORECASE)
