"""Limits for the size of an image. Imports nothing."""

MAX_PIXELS = 89_478_485
"""Default limit for the pixels of an image: the threshold of Pillow's own warning."""

MAX_ASPECT_RATIO = 200
"""Default limit for the ratio of an image's sides: resizing the shorter side would make a strip huge."""
