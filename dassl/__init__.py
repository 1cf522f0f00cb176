"""A small core for image classification trainers, compatible with the import paths and life cycle of Dassl."""

__version__ = "1.0.0"
