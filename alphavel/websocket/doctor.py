"""What `alpha doctor` checks of the WebSocket server: what a start would stumble over, and what only shows under load."""

from __future__ import annotations

import errno
import importlib.metadata
import resource
import socket
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from alphavel.foundation.checks import Check, Finding, good, warning, writable, wrong
from alphavel.foundation.config import Config
from alphavel.foundation.control import ControlError, ask_all
from alphavel.foundation.errors import ConfigurationError
from alphavel.websocket.factory import check_installed
from alphavel.websocket.files import SPARE_FILES
from alphavel.websocket.settings import WebSocketSettings

if TYPE_CHECKING:
    from alphavel.websocket.settings import AppSettings

_SettingsCheck = Callable[[WebSocketSettings], Iterator[Finding]]

_SOMAXCONN = Path("/proc/sys/net/core/somaxconn")
_SHORT_SECRET = 16  # characters; hosted Pusher's have 20
_EXPIRES_SOON_S = 14 * 86400
_CLOCKS_DIFFER_S = 2.0
_SHOWN = ("gevent", "Flask", "PyJWT", "orjson", "gunicorn", "redis", "prometheus-client")
_FIX = "Correct it; alpha vendor:publish --tag=websocket-config shows all settings."


def checks() -> list[Check]:
    """Return them. Where the configuration is wrong, it is all that is looked at."""
    try:
        settings = Config().settings("websocket", WebSocketSettings)
    except ConfigurationError as error:
        told = str(error)
        return [lambda: [wrong("configuration", told, _FIX)]]
    if settings.broadcasting.driver == "http":
        return [lambda: _sender(settings)]
    of_settings = (_configuration, _auth, _apps, _exposed, _port, _files, _backlog, _certificate, _log, _keys, _redis, _writer)
    return [_versions, *(_bound(check, settings) for check in of_settings)]


def _bound(check: _SettingsCheck, settings: WebSocketSettings) -> Check:
    def bound() -> Iterator[Finding]:
        return check(settings)

    bound.__name__ = check.__name__
    return bound


def _versions() -> Iterator[Finding]:
    versions = []
    for name in _SHOWN:
        try:
            versions.append(f"{name} {importlib.metadata.version(name)}")
        except importlib.metadata.PackageNotFoundError:
            continue
    yield good("versions", ", ".join(versions))


def _configuration(settings: WebSocketSettings) -> Iterator[Finding]:
    try:
        check_installed()
        from alphavel.websocket.server import WebSocketServer
        from alphavel.websocket.tls import tls_context

        WebSocketServer(settings)
        tls_context(settings.tls)
    except ConfigurationError as error:
        yield wrong("configuration", str(error), _FIX)
    else:
        file = Config().folder / "websocket.yaml"
        yield good("configuration", f"{file} is valid." if file.exists() else f"There is no {file}: the defaults hold.")


# Keys


def _auth(settings: WebSocketSettings) -> Iterator[Finding]:
    auth = settings.auth
    given = [name for name in ("secret", "public_key", "jwks_url") if getattr(auth, name)]
    if auth.enabled is False or not given:
        advice = "Set auth.secret (openssl rand -base64 48), auth.public_key or auth.jwks_url, unless that is meant."
        yield warning("tokens", "No token is checked: anybody may connect, to public channels only.", advice)
    else:
        yield good("tokens", f"They are checked with auth.{given[0]}.")
    if auth.token_in_query and given:
        yield good("tokens", "They are taken from the query string too; auth.token_in_query: false ends that.")
    if "*" in settings.allowed_origins:
        yield warning("origins", "Pages of all sites may connect.", "Name yours in allowed_origins.")


def _keys(settings: WebSocketSettings) -> Iterator[Finding]:
    url = settings.auth.jwks_url
    if not url:
        return
    import jwt

    try:
        keys = jwt.PyJWKClient(url, timeout=settings.auth.jwks_timeout).get_signing_keys()  # type: ignore[arg-type]
    except Exception as error:  # noqa: BLE001 (whatever is answered there, no keys is what it means)
        yield wrong("keys", f"There are no keys at auth.jwks_url: {error}", "Until there are, nobody with a token is let in.")
    else:
        yield good("keys", f"Keys at auth.jwks_url: {len(keys)}.")


def _apps(settings: WebSocketSettings) -> Iterator[Finding]:
    for app in settings.apps:
        yield _app(app)


def _app(app: AppSettings) -> Finding:
    if len(app.secret) < _SHORT_SECRET:
        text = f"The secret of app {app.id} has {len(app.secret)} characters: whoever guesses it may publish and join anything."
        return warning("apps", text, "Make one with: openssl rand -hex 20")
    return good("apps", f"App {app.id} has a key and a secret.")


def _exposed(settings: WebSocketSettings) -> Iterator[Finding]:
    token = settings.metrics.token
    if settings.metrics.enabled and token is not None and len(token) < _SHORT_SECRET:
        yield warning("metrics", f"metrics.token has {len(token)} characters.", "Make one with: openssl rand -hex 20")
    redis = settings.broadcasting.redis
    if settings.broadcasting.driver == "redis" and redis.secret is None:
        text = "Whoever can write to Redis can push to your clients: broadcasting.redis.secret is not set."
        yield warning("redis", text, "Set it, the same for all nodes and senders: openssl rand -base64 48")


# The machine


def _port(settings: WebSocketSettings) -> Iterator[Finding]:
    host, port = settings.host, settings.port
    try:
        with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((host, port))
            probe.listen(1)
    except OSError as error:
        yield _unusable(host, port, error)
    else:
        yield good("port", f"{host}:{port} is free.")


def _unusable(host: str, port: int, error: OSError) -> Finding:
    if error.errno == errno.EADDRINUSE and _is_ours(port):
        return good("port", f"Alphavel listens on port {port} already.")
    if error.errno == errno.EADDRINUSE:
        return wrong("port", f"Something else listens on port {port}.", f"Find it: ss -ltnp 'sport = :{port}'. Or set port.")
    if error.errno == errno.EACCES:
        advice = "Use a port from 1024 on, or let systemd open it (socket activation)."
        return wrong("port", f"This user may not listen on port {port}.", advice)
    return wrong("port", f"{host}:{port} cannot be listened on: {error.strerror}.", "Set host to an address of this machine.")


def _is_ours(port: int) -> bool:
    try:
        servers = ask_all("websocket", "stats", 1.0)
    except ControlError:
        return False
    return any(f":{port}/" in f"{address}/" for server in servers for address in server["listening"])


def _files(settings: WebSocketSettings) -> Iterator[Finding]:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = settings.options.max_connections + SPARE_FILES
    if hard == resource.RLIM_INFINITY or hard >= wanted:
        yield good("open files", f"A worker may open as many as options.max_connections needs ({wanted:,}).")
        return
    text = (
        f"A worker may open {hard:,}: about {max(0, hard - SPARE_FILES):,} of {settings.options.max_connections:,} connections."
    )
    advice = (
        f"ulimit -n {wanted}, LimitNOFILE={wanted} (systemd), minfds={wanted} (Supervisor); or lower options.max_connections."
    )
    yield warning("open files", text, advice)


def _backlog(settings: WebSocketSettings) -> Iterator[Finding]:
    wanted = settings.options.backlog
    try:
        allowed = int(_SOMAXCONN.read_text(encoding="ascii"))
    except (OSError, ValueError):
        return
    if allowed >= wanted:
        yield good("backlog", f"The kernel keeps {wanted:,} connections until they are accepted.")
    else:
        text = f"The kernel keeps {allowed:,} connections until they are accepted, not the {wanted:,} of options.backlog."
        yield warning("backlog", text, f"sysctl -w net.core.somaxconn={wanted}, and a line in /etc/sysctl.d/ to keep it.")


def _certificate(settings: WebSocketSettings) -> Iterator[Finding]:
    if settings.tls.cert is None:
        return
    from cryptography import x509

    try:
        certificate = x509.load_pem_x509_certificate(Path(settings.tls.cert).read_bytes())
    except (OSError, ValueError):
        return  # which the check of the configuration tells
    ends = certificate.not_valid_after_utc.timestamp()
    day = time.strftime("%Y-%m-%d", time.gmtime(ends))
    advice = "Renew it, then send the server SIGHUP."
    if ends < time.time():
        yield wrong("certificate", f"It has expired on {day}.", advice)
    elif ends < time.time() + _EXPIRES_SOON_S:
        yield warning("certificate", f"It expires on {day}.", advice)
    else:
        yield good("certificate", f"It is valid until {day}.")


def _log(settings: WebSocketSettings) -> Iterator[Finding]:
    file = settings.logging.file
    if file is None:
        return
    if writable(file):
        yield good("log", f"{file} can be written.")
    else:
        yield wrong("log", f"This user may not write {file}.", "Give the folder to the user that runs the server.")


# Redis


def _redis(settings: WebSocketSettings) -> Iterator[Finding]:
    if settings.broadcasting.driver != "redis":
        return
    from alphavel.websocket.bus.connecting import check, connect

    place = settings.broadcasting.redis.place
    try:
        check(settings.broadcasting.redis)
    except ConfigurationError as error:
        yield wrong("redis", str(error), _FIX)
        return
    from redis import RedisError
    from redis.exceptions import NoPermissionError

    client, prefix, is_cluster = None, settings.broadcasting.redis.prefix, settings.broadcasting.redis.cluster
    try:
        client = connect(settings.broadcasting.redis)
        server = client.get_redis_connection(client.get_default_node()) if is_cluster else client  # its nodes are alike
        began = time.perf_counter()
        server.ping()
        took = time.perf_counter() - began
        seconds, microseconds = server.time()
        version = _version(server.execute_command("HELLO"))  # INFO is not for everybody
        (client.spublish if is_cluster else client.publish)(f"{prefix}doctor", b"")
        client.exists(f"{prefix}doctor")
    except NoPermissionError as error:
        yield wrong("redis", f"Redis at {place}: {error}.", f"Give it ~{prefix}* &{prefix}* +@all -@admin -@dangerous.")
        return
    except (RedisError, OSError) as error:
        advice = "Start it, or correct broadcasting.redis.url. The server starts without, and reaches no other node."
        yield wrong("redis", f"Redis at {place} cannot be used: {error}", advice)
        return
    finally:
        if client is not None:
            client.close()
    yield good("redis", f"Redis {version} at {place} answers in {took * 1000:.1f} ms.")
    apart = abs(time.time() - seconds - microseconds / 1e6)
    if apart > _CLOCKS_DIFFER_S:
        text = f"The clocks of Redis and of this machine differ by {apart:.1f} s."
        yield warning("clock", text, "Keep both right with chrony or systemd-timesyncd.")


def _version(hello: Any) -> str:
    """Read what HELLO answers: a list or, over RESP3, a map."""
    told = hello if isinstance(hello, dict) else dict(zip(hello[::2], hello[1::2], strict=False))
    return str(told[b"version"].decode())


# Speed


def _writer(settings: WebSocketSettings) -> Iterator[Finding]:
    from alphavel.websocket.transports.writing import open_writer

    try:
        writer = open_writer("auto")
    except ConfigurationError as error:
        yield wrong("writer", str(error), _FIX)
        return
    writer.close()
    if writer.name == "python":
        advice = "Install a C compiler and Python's headers, then the package again with --no-binary alphavel-websocket."
        yield warning("writer", "The C extension is not built: fan-out is several times slower.", advice)
    elif writer.note:
        yield good("writer", f"{writer.name}, in C; {writer.note}")
    else:
        yield good("writer", f"{writer.name}, in C")


# A process that only sends


def _sender(settings: WebSocketSettings) -> Iterator[Finding]:
    http = settings.broadcasting.http
    try:
        with urllib.request.urlopen(f"{http.url.rstrip('/')}/health", timeout=http.timeout) as answer:  # noqa: S310
            status = answer.status
    except (OSError, ValueError) as error:
        yield wrong("server", f"This process sends to {http.url}, which cannot be reached: {error}", "Start the server there.")
    else:
        yield good("server", f"This process sends to {http.url}, which answers {status}.")
    if not settings.apps:
        yield wrong(
            "apps", "A process that sends over HTTP signs as an app, and none is configured.", "Set apps, as on the server."
        )
