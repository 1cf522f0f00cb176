"""Using what was learned: classifying images (`predict.py`) and taking a classifier elsewhere (`export.py`)."""

from deploy.classifier import Classifier, Prediction, load_classifier

__all__ = ["Classifier", "Prediction", "load_classifier"]
