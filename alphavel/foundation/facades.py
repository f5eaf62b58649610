"""
Facades: names to import that stand for what is bound in the container, found when they are first used.
"""

from __future__ import annotations

from typing import Any

from alphavel.foundation.container import Container, NotBoundError, container


def facade(name: str, hint: str) -> Any:
    """
    Return an object whose attributes are those of what is bound to `name`.

    Args:
        name: Name in the container.
        hint: What to do where nothing is bound, for the error.
    """
    return Facade(name, hint, container())


class Facade:
    """See `facade`. Methods are kept once found, so that a call costs no more than one on the thing itself."""

    def __init__(self, name: str, hint: str, container: Container) -> None:
        self.__dict__["_facade"] = (name, hint, container)
        container.on_change(self._forget)

    def __getattr__(self, attribute: str) -> Any:
        # Only called for what is not in __dict__ yet.
        if attribute.startswith("__") and attribute.endswith("__"):
            # Tools look for such names on everything they meet; that is no reason to make anything, or to complain.
            raise AttributeError(attribute)
        value = getattr(self._resolve(), attribute)
        if callable(value) and getattr(value, "__self__", None) is not None:
            self.__dict__[attribute] = value
        return value

    def __setattr__(self, attribute: str, value: Any) -> None:
        setattr(self._resolve(), attribute, value)

    def __dir__(self) -> list[str]:
        return dir(self._resolve())

    def __repr__(self) -> str:
        return f"<Facade of {self.__dict__['_facade'][0]!r}>"

    def _resolve(self) -> Any:
        name, hint, bindings = self.__dict__["_facade"]
        if not bindings.bound(name):
            from alphavel.foundation.providers import register_all

            register_all(bindings)
        try:
            return bindings.make(name)
        except NotBoundError:
            raise NotBoundError(f"Nothing is bound to {name!r}. {hint}") from None

    def _forget(self, name: str) -> None:
        kept = self.__dict__["_facade"]
        if name == kept[0]:
            self.__dict__.clear()
            self.__dict__["_facade"] = kept
