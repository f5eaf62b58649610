"""
How a process reaches Redis, as `broadcasting.redis` says: one server, one that Sentinels name, or a cluster; with or without a
user, a password and TLS. Plain blocking calls, no gevent: processes that only send use it, too.

    redis://HOST:PORT/DATABASE                              one server; rediss:// over TLS, unix:// through a Unix socket
    redis+sentinel://HOST:PORT,HOST:PORT/SERVICE/DATABASE   the server that Sentinels call the master of a service; rediss+sentinel://
    redis://HOST:PORT with cluster: true                    any of a cluster's nodes, which tells of the others
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl, unquote, urlsplit

from alphavel.foundation.errors import ConfigurationError

if TYPE_CHECKING:
    from alphavel.websocket.settings import RedisSettings

_SENTINEL = ("redis+sentinel", "rediss+sentinel")
_SENTINEL_PORT = 26379


def check(settings: RedisSettings) -> None:
    """
    Check that a client can be made, without connecting.

    Raises:
        ConfigurationError: redis-py is not installed, or the URL makes no sense.
    """
    _import()
    url = urlsplit(settings.url)
    if url.scheme in _SENTINEL:
        _sentinels(settings)
    else:
        from redis import connection

        parse_url: Any = connection.parse_url
        try:
            parse_url(settings.url)
        except ValueError:
            raise _bad_url() from None
    if settings.cluster and url.scheme not in ("redis", "rediss"):
        raise ConfigurationError(
            "a cluster is reached over redis:// or rediss://, without Sentinels.", key="broadcasting.redis.cluster"
        )


def connect(settings: RedisSettings) -> Any:
    """
    Return a Redis client. It connects when it is first used, that of a cluster at once.

    Raises:
        ConfigurationError: redis-py is not installed, or the URL makes no sense.
        redis.RedisError: There is no cluster to be found.
    """
    check(settings)
    redis = _import()
    options = _options(settings)
    if settings.cluster:
        return redis.RedisCluster.from_url(settings.url, **options)
    if urlsplit(settings.url).scheme in _SENTINEL:
        sentinel, service = _sentinel(settings, options)
        return sentinel.master_for(service)
    return redis.Redis.from_url(settings.url, **options)


def connect_to_node(settings: RedisSettings, host: str, port: int) -> Any:
    """Return a Redis client of one node of a cluster; it connects when it is first used."""
    url = urlsplit(settings.url)
    user, at, _ = url.netloc.rpartition("@")
    place = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    return _import().Redis.from_url(url._replace(netloc=f"{user}{at}{place}", path="").geturl(), **_options(settings))


def _import() -> Any:
    try:
        import redis
    except ImportError:
        raise ConfigurationError(
            'broadcasting.driver is redis, and redis-py is not installed: pip install "alphavel[redis]"'
        ) from None
    return redis


def _options(settings: RedisSettings) -> dict[str, Any]:
    from redis.backoff import NoBackoff
    from redis.retry import Retry

    scheme = urlsplit(settings.url).scheme
    options: dict[str, Any] = {
        "socket_timeout": settings.timeout,
        "socket_connect_timeout": settings.timeout,
        # Who calls knows better whether to try again. No errors named: with some, redis-py connects and subscribes again before
        # it raises them all the same.
        "retry": Retry(NoBackoff(), 0, supported_errors=()),
    }
    if scheme != "unix":
        options["socket_keepalive"] = True
    for name in ("username", "password"):  # those of the URL, where it has some, go before these
        if getattr(settings, name):
            options[name] = getattr(settings, name)
    if scheme.startswith("rediss"):
        tls = settings.tls
        options.update(ssl_ca_certs=tls.ca_file, ssl_certfile=tls.cert_file, ssl_keyfile=tls.key_file)
        options.update(ssl_cert_reqs="required" if tls.verify else "none", ssl_check_hostname=tls.verify)
    return options


def _sentinel(settings: RedisSettings, options: dict[str, Any]) -> tuple[Any, str]:
    from redis import sentinel

    url = urlsplit(settings.url)
    hosts, service, database = _sentinels(settings)
    query = dict(parse_qsl(url.query))
    if url.username:
        options["username"] = unquote(url.username)
    if url.password:
        options["password"] = unquote(url.password)
    if url.scheme == "rediss+sentinel":
        options["ssl"] = True
    theirs = {name: value for name, value in options.items() if name.startswith(("s", "retry"))}  # socket_… and ssl…
    theirs.update({name.removeprefix("sentinel_"): value for name, value in query.items() if name.startswith("sentinel_")})
    make: Any = sentinel.Sentinel
    return make(hosts, sentinel_kwargs=theirs, db=database, **options), service


def _sentinels(settings: RedisSettings) -> tuple[list[tuple[str, int]], str, int]:
    """Return where the Sentinels are, the service, and the database."""
    url = urlsplit(settings.url)
    service, _, database = url.path.strip("/").partition("/")
    hosts = [urlsplit(f"//{host}") for host in url.netloc.rpartition("@")[2].split(",")]
    try:
        places = [(host.hostname or "", host.port or _SENTINEL_PORT) for host in hosts]
        number = int(database or 0)
    except ValueError:
        raise _bad_url() from None
    if not service or not all(host for host, _ in places):
        raise _bad_url()
    return places, service, number


def _bad_url() -> ConfigurationError:
    # Without what the parser says, which may quote a part of the password.
    return ConfigurationError(
        "expected redis://HOST:PORT/DATABASE, rediss://, unix:///PATH or redis+sentinel://HOST:PORT,HOST:PORT/SERVICE/DATABASE."
        " In a password / is %2F, : is %3A, @ is %40.",
        key="broadcasting.redis.url",
    )
