"""Acquiring data: sources, download, unpacking, layout, and checks of data on disk."""
