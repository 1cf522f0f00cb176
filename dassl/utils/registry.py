"""Classes and functions by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, TypeVar, overload

from .errors import UnknownNameError
from .names import unknown_name_message

T = TypeVar("T")


class Registry:
    """A named table of classes or functions, filled by the decorator `register`.

    Args:
        name: what it has, in capitals.
        said: what `build` prints before a name; empty: `name`.

    >>> BACKBONES = Registry("BACKBONE")
    >>> @BACKBONES.register()
    ... def tiny(): ...
    >>> BACKBONES.get("tiny")
    """

    def __init__(self, name: str, said: str = "") -> None:
        self._name = name
        self._said = said or name.capitalize()
        self._obj_map: dict[str, Any] = {}
        self.on_conflict: Callable[[Registry, str, Any, Any], Any] | None = None
        """Chooses what a name stands for that is registered twice: `(registry, name, registered, new)` -> one of the
        two, or None for the usual error."""

    @property
    def kind(self) -> str:
        """What it has, in a message: "trainer"."""
        return self._name.lower()

    @overload
    def register(self, obj: None = None, force: bool = False) -> Callable[[T], T]: ...

    @overload
    def register(self, obj: T, force: bool = False) -> T: ...

    def register(self, obj: Any = None, force: bool = False) -> Any:
        """Register `obj` under its own name, or return a decorator that does. `force` replaces an existing name."""
        if obj is None:
            return partial(self.register, force=force)
        name, chosen = obj.__name__, obj
        if name in self._obj_map and not force and self.on_conflict is not None:
            chosen = self.on_conflict(self, name, self._obj_map[name], obj)
            force = chosen is not None
        if name in self._obj_map and not force:
            raise KeyError(f'An object named "{name}" is already registered in "{self._name}"')
        self._obj_map[name] = chosen
        return obj

    def get(self, name: str) -> Any:
        """The object registered as `name`.

        Raises:
            UnknownNameError: there is no such name; the available ones are listed.
        """
        if name not in self._obj_map:
            raise UnknownNameError(unknown_name_message(self._name, name, self.registered_names()))
        return self._obj_map[name]

    def stated(self, name: str, attribute: str, default: Any) -> Any:
        """What a registered class states itself; what it inherits is its base's, not its own."""
        return vars(self.get(name)).get(attribute, default)

    def build(self, name: str, verbose: bool = True, *args: Any, **kwargs: Any) -> Any:
        """What the object registered as `name` returns for the other arguments.

        Args:
            verbose: print the name.

        Raises:
            UnknownNameError: there is no such name; the available ones are listed.
        """
        make = self.get(name)
        if verbose:
            print(f"{self._said}: {name}")
        return make(*args, **kwargs)

    def registered_names(self) -> list[str]:
        """Names in order of registration."""
        return list(self._obj_map)

    def items(self) -> list[tuple[str, Any]]:
        """Names and objects in order of registration."""
        return list(self._obj_map.items())

    def restore(self, content: Mapping[str, Any]) -> None:
        """Go back to an earlier content, as `items` gave it."""
        self._obj_map.clear()
        self._obj_map.update(content)

    def __contains__(self, name: str) -> bool:
        return name in self._obj_map
