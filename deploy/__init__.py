"""Using what was learned.

Classifying images (`predict.py`, `deploy.web`), taking a classifier elsewhere (`export.py`), and sharing prompts on the
Hugging Face Hub (`deploy.hub`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from deploy.classifier import Classifier, Prediction, load_classifier

__all__ = ["Classifier", "Prediction", "load_classifier"]


def __getattr__(name: str) -> Any:
    """Import the classifier, and with it PyTorch, only when it is used: command lines are read without it."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from deploy import classifier

    return getattr(classifier, name)
