"""What the methods share: the trainer, prompts, precision, templates, records, and the captured step."""
