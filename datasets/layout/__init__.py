"""What data on disk looks like: splits, few-shot draws, class names, items, and data of the user."""
