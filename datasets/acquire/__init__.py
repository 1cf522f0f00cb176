"""Acquiring data: sources, download, unpacking, layout, and checks of data on disk."""

FAST_SAMPLE = 200
"""Images per data set that a fast check decodes."""
