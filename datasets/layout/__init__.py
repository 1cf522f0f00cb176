"""The layout of data on disk: splits, few-shot draws, class names, items, and custom data."""
