"""
Configuration, service providers, facades and the `alpha` command: what the packages of Alphavel stand on.

It knows none of them; they are found by the entry-point group `alphavel.providers`.
"""

from __future__ import annotations

from alphavel.foundation.application import Alphavel
from alphavel.foundation.container import Container, NotBoundError, container
from alphavel.foundation.errors import ConfigurationError
from alphavel.foundation.facades import facade
from alphavel.foundation.providers import ServiceProvider

__version__ = "1.0.0"

__all__ = [
    "Alphavel",
    "ConfigurationError",
    "Container",
    "NotBoundError",
    "ServiceProvider",
    "__version__",
    "container",
    "facade",
]
