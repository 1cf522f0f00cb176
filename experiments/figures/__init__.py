"""The figures that the field's papers show, each from a run's folder; `python -m experiments figures RUN --kind KIND`.

Each file in `kinds` draws one kind and is found by its name.
"""

from .command import main

__all__ = ["main"]
