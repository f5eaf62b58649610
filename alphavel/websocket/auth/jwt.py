"""
Checking JSON Web Tokens with PyJWT. RFC 7519; the attacks this refuses are those of RFC 8725.

The algorithms are decided by the key at the start, never by the token: `none` is not among them, and a public key can
never be taken for the secret of an HMAC.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import jwt
from jwt.algorithms import get_default_algorithms

from alphavel.foundation.errors import ConfigurationError
from alphavel.websocket.auth.jwks import KeySet, UnknownKeyError
from alphavel.websocket.auth.users import AuthenticationError, User

if TYPE_CHECKING:
    from alphavel.websocket.settings import AuthSettings

_HMAC = ("HS256", "HS384", "HS512")
_RSA = ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512")
_EC = {"secp256r1": "ES256", "secp384r1": "ES384", "secp521r1": "ES512", "secp256k1": "ES256K"}
_ID_CLAIMS = ("sub", "user_id", "id")
_MIN_SECRET_BYTES = 32
_WRONG_CLAIMS = (
    jwt.InvalidAudienceError,
    jwt.InvalidIssuerError,
    jwt.MissingRequiredClaimError,
    jwt.ImmatureSignatureError,
)


class TokenVerifier:
    """
    Checks tokens against the configured key.

    Attributes:
        enabled: Whether tokens are checked at all.
        algorithms: Those accepted.
    """

    def __init__(self, settings: AuthSettings) -> None:
        """
        Raises:
            ConfigurationError: There is no key, there are several, or one does not fit the algorithms.
        """
        self._settings = settings
        given = [name for name in ("secret", "public_key", "jwks_url") if getattr(settings, name)]
        self.enabled = settings.enabled if settings.enabled is not None else bool(given)
        self.algorithms: tuple[str, ...] = ()
        self._key: Any = None
        self._key_set: KeySet | None = None
        if not self.enabled:
            return
        if not given:
            raise ConfigurationError(
                "auth.enabled is true but there is no key to check tokens with. Set auth.secret, auth.public_key or "
                "auth.jwks_url in config/websocket.yaml, or ALPHAVEL_JWT_SECRET in the environment."
            )
        if len(given) > 1:
            raise ConfigurationError(f"Set one of auth.{' and auth.'.join(given)} in config/websocket.yaml, not {len(given)}.")
        usable = self._take_key(given[0])
        self.algorithms = _accepted(settings.algorithms, usable, given[0])

    def _take_key(self, name: str) -> tuple[str, ...]:
        settings = self._settings
        if name == "jwks_url":
            assert settings.jwks_url is not None
            if urlsplit(settings.jwks_url).scheme not in ("http", "https"):
                raise ConfigurationError(
                    f"expected https://ISSUER/PATH, or http:// where that is meant; got {settings.jwks_url!r}.",
                    key="auth.jwks_url",
                )
            self._key_set = KeySet(settings.jwks_url, settings.jwks_cache, settings.jwks_timeout)
            return (*_RSA, *_EC.values(), "EdDSA")
        if name == "secret":
            assert settings.secret is not None
            if "-----BEGIN" in settings.secret:
                raise ConfigurationError("auth.secret holds a PEM key. A public key belongs into auth.public_key.")
            if len(settings.secret.encode()) < _MIN_SECRET_BYTES:
                raise ConfigurationError(
                    f"auth.secret is too short: expected at least {_MIN_SECRET_BYTES} bytes (RFC 7518, section 3.2), got "
                    f"{len(settings.secret.encode())}. Make one with: openssl rand -base64 48"
                )
            self._key = settings.secret
            return _HMAC
        self._key, usable = _load_public_key(settings.public_key or "")
        return usable

    def verify(self, token: Any) -> User:
        """
        Check a token. Blocks the calling greenlet where a key has to be fetched, nobody else.

        Args:
            token: What the client sent; anything.

        Raises:
            AuthenticationError: It is not valid; the text says why and can be shown.
        """
        if not isinstance(token, str) or not token:
            raise AuthenticationError("Expected a token, a text.", "missing")
        settings = self._settings
        try:
            decoded = jwt.decode_complete(
                token,
                self._find_key(token),
                algorithms=list(self.algorithms),
                audience=settings.audience,
                issuer=settings.issuer,
                leeway=settings.leeway,
                options={"require": ["exp"] if settings.require_exp else []},
            )
        except jwt.ExpiredSignatureError:
            raise AuthenticationError("The token has expired.", "expired") from None
        except jwt.InvalidSignatureError:
            raise AuthenticationError("The token's signature is wrong.", "signature") from None
        except jwt.InvalidAlgorithmError:
            raise AuthenticationError("The token's algorithm is not accepted here.", "signature") from None
        except _WRONG_CLAIMS as error:
            raise AuthenticationError(f"The token is not for here: {error}.", "claims") from None
        except (UnknownKeyError, jwt.PyJWKError, jwt.PyJWKClientError):
            raise AuthenticationError("The token is signed with a key that is not known here.", "key") from None
        except (jwt.PyJWTError, ValueError, TypeError, OverflowError, RecursionError):
            raise AuthenticationError("The token is malformed.") from None
        if "crit" in decoded["header"]:
            raise AuthenticationError("The token demands what is not understood here.")  # RFC 7515, section 4.1.11
        return self._user(decoded["payload"])

    def _find_key(self, token: str) -> Any:
        if self._key_set is None:
            return self._key
        return self._key_set.key_for(jwt.get_unverified_header(token).get("kid"))

    def _user(self, claims: dict[str, Any]) -> User:
        settings = self._settings
        names = (settings.user_id_claim,) if settings.user_id_claim else _ID_CLAIMS
        user_id = next((claims[name] for name in names if claims.get(name) not in (None, "")), None)
        if isinstance(user_id, bool) or not isinstance(user_id, (str, int)):
            raise AuthenticationError(f"The token names no user: it needs the claim {' or '.join(names)}.", "claims")
        try:
            str(user_id).encode()
        except UnicodeEncodeError:  # half a surrogate pair: JSON can write it, and nobody could ever be told of this user
            raise AuthenticationError("The token's user id is no Unicode text.", "claims") from None
        expires_at = claims.get("exp")
        return User(
            str(user_id),
            json.dumps(claims, separators=(",", ":")).encode(),  # takes what orjson refuses: integers of any size
            None if expires_at is None else float(expires_at) + settings.leeway,
        )


def _load_public_key(text: str) -> tuple[Any, tuple[str, ...]]:
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, rsa
    from cryptography.hazmat.primitives.serialization import load_pem_public_key
    from cryptography.x509 import load_pem_x509_certificate

    if "-----BEGIN" not in text:
        try:
            text = Path(text).read_text()
        except (OSError, ValueError) as error:  # ValueError: it holds bytes that are no text, as a key in DER does
            raise ConfigurationError(f"auth.public_key: expected PEM text or the path of a PEM file; {error}.") from None
    if "PRIVATE KEY" in text:
        raise ConfigurationError("auth.public_key holds a private key. Give the public one; this server only checks tokens.")
    try:
        pem = text.encode()
        key = load_pem_x509_certificate(pem).public_key() if b"CERTIFICATE" in pem else load_pem_public_key(pem)
    except (ValueError, UnsupportedAlgorithm) as error:
        raise ConfigurationError(f"auth.public_key is not a public key in PEM: {error}.") from None
    if isinstance(key, rsa.RSAPublicKey):
        return key, _RSA
    if isinstance(key, ec.EllipticCurvePublicKey) and key.curve.name in _EC:
        return key, (_EC[key.curve.name],)
    if isinstance(key, (ed25519.Ed25519PublicKey, ed448.Ed448PublicKey)):
        return key, ("EdDSA",)
    raise ConfigurationError(f"auth.public_key: keys of the kind {type(key).__name__} cannot check tokens.")


def _accepted(asked: tuple[str, ...], usable: tuple[str, ...], source: str) -> tuple[str, ...]:
    if not asked:
        return ("HS256",) if usable is _HMAC else usable
    known = get_default_algorithms()
    for name in asked:
        if name == "none" or name not in known:
            raise ConfigurationError(f"auth.algorithms: {name!r} is not accepted; with auth.{source} use {', '.join(usable)}.")
        if name not in usable:
            raise ConfigurationError(
                f"auth.algorithms: {name} does not go with auth.{source}, whose keys are for {', '.join(usable)}."
            )
    return asked
