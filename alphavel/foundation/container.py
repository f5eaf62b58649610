"""What is bound to which name in this process: the service container."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

Factory = Callable[["Container"], Any]


class NotBoundError(LookupError):
    """Nothing is bound to a name."""


class Container:
    """
    Makes things by name, each once, when first asked.

    Free of locks: two threads that ask for the same name at the same first moment may both call its factory, and
    `dict.setdefault`, one step in CPython, decides whose result everybody gets.
    """

    def __init__(self) -> None:
        self._factories: dict[str, Factory] = {}
        self._instances: dict[str, Any] = {}
        self._on_change: list[Callable[[str], None]] = []

    def bind(self, name: str, factory: Factory) -> None:
        """Bind a name to what `factory(container)` makes, in place of what was bound before."""
        self._factories[name] = factory
        self._instances.pop(name, None)
        self._changed(name)

    def instance(self, name: str, thing: Any) -> None:
        """Bind a name to a thing that is there already."""
        self._instances[name] = thing
        self._changed(name)

    def forget(self, name: str) -> None:
        """Unbind a name; does nothing where nothing is bound."""
        self._factories.pop(name, None)
        self._instances.pop(name, None)
        self._changed(name)

    def bound(self, name: str) -> bool:
        """Whether something is bound to the name."""
        return name in self._instances or name in self._factories

    def made(self, name: str) -> Any:
        """Return what is bound to the name where it is there already, else None: nothing is made."""
        return self._instances.get(name)

    def make(self, name: str) -> Any:
        """
        Return what is bound to the name.

        Raises:
            NotBoundError: Nothing is.
        """
        if name in self._instances:
            return self._instances[name]
        factory = self._factories.get(name)
        if factory is None:
            raise NotBoundError(f"Nothing is bound to {name!r}.")
        return self._instances.setdefault(name, factory(self))

    def on_change(self, callback: Callable[[str], None]) -> None:
        """Have `callback(name)` called whenever a name is bound to something else."""
        self._on_change.append(callback)

    def _changed(self, name: str) -> None:
        for callback in self._on_change:
            callback(name)


_container = Container()


def container() -> Container:
    """Return the container of this process."""
    return _container
