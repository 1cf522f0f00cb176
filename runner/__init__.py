"""One run: command line, configuration, training or evaluation, `result.json`."""
