from .model import WHOSE

__all__ = ["WHOSE", "build_model"]


def build_model(state_dict, design_details):
    return WHOSE
