"""Results of many runs put together."""
