"""The configuration as data."""

from __future__ import annotations

from typing import Any


def plain(config: Any) -> Any:
    """A config tree as JSON and YAML's safe form know it: nested dictionaries, lists, numbers and strings."""
    if isinstance(config, dict):
        return {str(key): plain(value) for key, value in config.items()}
    if isinstance(config, (list, tuple)):
        return [plain(value) for value in config]
    return config if isinstance(config, (str, int, float, bool, type(None))) else str(config)
