"""Evaluators."""

from .build import EVALUATOR_REGISTRY, build_evaluator
from .evaluator import Classification, EvaluatorBase
from .predictions import PREDICTIONS_NAME, write_predictions
