"""CLIP with prompts as arguments. `from clip import clip` gives the module with the lineage's entry points."""

from clip.clip import available_models, build_model, load, tokenize

__all__ = ["available_models", "build_model", "load", "tokenize"]
