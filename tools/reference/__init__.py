"""The reference page, made from the code: config keys, files and flags. `python -m tools.reference` writes it."""
