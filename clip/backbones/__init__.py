"""Where a CLIP comes from: checkpoint files, the registry of open_clip, and the small model that is shipped."""
