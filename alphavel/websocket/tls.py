"""TLS that this process ends itself."""

from __future__ import annotations

import ssl
from typing import TYPE_CHECKING

from alphavel.foundation.errors import ConfigurationError

if TYPE_CHECKING:
    from alphavel.websocket.settings import TlsSettings


def tls_context(settings: TlsSettings) -> ssl.SSLContext | None:
    """
    Read the certificate and its key.

    Args:
        settings: Where they are.

    Returns:
        None: no TLS here.

    Raises:
        ConfigurationError: One is named without the other, cannot be read, or they do not belong together.
    """
    if settings.cert is None and settings.key is None:
        return None
    if settings.cert is None or settings.key is None:
        raise ConfigurationError("tls.cert and tls.key go together (--tls-cert and --tls-key, ALPHAVEL_TLS_CERT and _KEY).")
    for path in (settings.cert, settings.key):
        try:
            with open(path, "rb"):
                pass
        except OSError as error:
            raise ConfigurationError(f"tls: {path} cannot be read: {error.strerror}.") from error
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)  # TLS 1.2 and newer
    context.set_alpn_protocols(["http/1.1"])
    try:
        context.load_cert_chain(settings.cert, settings.key, password=_refuse_password)
    except (ssl.SSLError, ValueError) as error:
        raise ConfigurationError(
            f"tls: {settings.cert} and {settings.key} are no certificate and its key, in PEM and without a password: {error}."
        ) from error
    return context


def _refuse_password() -> str:
    """Without this, OpenSSL would ask for it at the terminal."""
    raise ValueError("the key is encrypted")
