"""
What `config/websocket.yaml` may say, with its defaults: the one place where a setting is declared.

`None` switches a limit or a feature off where its text says so. Sizes are bytes (`"2 MiB"` is understood), times are
seconds (`"30s"`, `"5 min"`).
"""

from __future__ import annotations

from dataclasses import dataclass

from alphavel.foundation.schema import setting

MIB = 1024 * 1024


@dataclass(frozen=True)
class CompressionSettings:
    """permessage-deflate, RFC 7692."""

    enabled: bool = setting(False, "Offer compression. Costs memory for each connection that takes it.")
    level: int = setting(1, "zlib's effort.", minimum=1, maximum=9)
    threshold: int = setting(256, "Smaller messages are sent as they are.", unit="bytes", minimum=0)
    context_takeover: bool = setting(
        False, "Keep the dictionary from one message to the next: smaller on the wire, about 100 KB a connection."
    )
    server_max_window_bits: int = setting(12, "Window of what we send.", minimum=9, maximum=15)
    client_max_window_bits: int = setting(12, "Window of what clients send, where they agree.", minimum=9, maximum=15)


@dataclass(frozen=True)
class OptionsSettings:
    """Sizes, times and limits of the server."""

    workers: int = setting(1, "Processes. The memory driver connects one.", minimum=1)
    max_connections: int = setting(100_000, "Open connections of one worker; more are answered 503.", minimum=1)
    max_message_size: int = setting(2 * MIB, "Largest message accepted; larger: close 1009.", unit="bytes", minimum=1)
    max_outbox: int = setting(
        MIB, "Bytes that may wait for one slow reader; more: it is closed with 4200.", unit="bytes", minimum=1024
    )
    max_messages_per_second: int | None = setting(
        250, "Frames a connection may send in a second; more are dropped, ten times more: closed. None: any.", minimum=1
    )
    max_waiting_messages: int = setting(
        100, "Messages that wait for a busy handler of their connection before reading pauses.", minimum=1
    )
    max_channels_per_connection: int = setting(100, "Channels one connection may be subscribed to.", minimum=1)
    max_channel_name_length: int = setting(164, "Characters of a channel name.", minimum=1)
    max_event_name_length: int = setting(200, "Characters of an event name.", minimum=1)
    max_header_size: int = setting(16 * 1024, "Headers of one request; more: 431.", unit="bytes", minimum=1024)
    max_pending_handshakes: int = setting(
        1000, "Requests whose headers have not come yet; with one more, the oldest is ended.", minimum=1
    )
    handshake_timeout: float = setting(10.0, "Time for a request's headers to arrive.", unit="seconds", minimum=0.1)
    close_timeout: float = setting(5.0, "Time for a peer to end a closing handshake.", unit="seconds", minimum=0.1)
    drain_timeout: float = setting(
        10.0, "Time to hand clients over and finish handlers when stopping.", unit="seconds", minimum=0
    )
    heartbeat_check_interval: float = setting(
        60.0, "A connection silent for so long is sent a ping.", unit="seconds", minimum=1
    )
    heartbeat_idle_time: float = setting(
        600.0, "A connection silent for so long, pongs included, is closed with 4201.", unit="seconds", minimum=1
    )
    backlog: int = setting(4096, "Connections the kernel keeps until they are accepted.", minimum=1)
    compression: CompressionSettings = setting(CompressionSettings, "permessage-deflate, off by default.")


@dataclass(frozen=True)
class BroadcastingSettings:
    """How a push reaches those it is for."""

    driver: str = setting("memory", "memory: this process.", choices=("memory",))
    max_batch: int = setting(
        64 * 1024, "Bytes pushed in one loop turn before they are written at once.", unit="bytes", minimum=1024
    )
    slice: float = setting(0.002, "Time a fan-out may take before other greenlets get a turn.", unit="seconds", minimum=0.0001)


@dataclass(frozen=True)
class AuthSettings:
    """JSON Web Tokens, RFC 7519. One of `secret`, `public_key` and `jwks_url` switches them on."""

    enabled: bool | None = setting(None, "true, false, or None: on where a key is set.")
    anonymous: bool = setting(False, "Where tokens are checked: let those without one in, to public channels only.")
    secret: str | None = setting(None, "Key of HS256, HS384, HS512.", env="ALPHAVEL_JWT_SECRET", secret=True)
    public_key: str | None = setting(None, "PEM text, or the path of a PEM file, for RS*, PS*, ES*, EdDSA.")
    jwks_url: str | None = setting(None, "Where the issuer publishes its keys.")
    jwks_cache: float = setting(300.0, "Time fetched keys are used.", unit="seconds", minimum=1)
    jwks_timeout: float = setting(5.0, "Time a fetch may take.", unit="seconds", minimum=0.1)
    algorithms: tuple[str, ...] = setting((), "Accepted algorithms. None named: HS256, or those that fit the key.")
    audience: str | None = setting(None, "Demanded `aud`. None: a token with an audience is refused.")
    issuer: str | None = setting(None, "Demanded `iss`. None: not checked.")
    leeway: float = setting(0.0, "Clock difference to forgive.", unit="seconds", minimum=0)
    require_exp: bool = setting(True, "Refuse a token that never expires.")
    user_id_claim: str | None = setting(None, "Claim that holds the user's id. None: sub, then user_id, then id.")
    token_in_query: bool = setting(True, "Accept a token in the query string (it may end up in proxies' logs).")
    token_query_param: str = setting("token", "Name of that query parameter.")


@dataclass(frozen=True)
class PresenceSettings:
    """Presence channels."""

    max_members: int | None = setting(None, "Users one presence channel takes. None: any number.", minimum=1)
    max_info_size: int = setting(2048, "JSON size of one member's info.", unit="bytes", minimum=2)


@dataclass(frozen=True)
class LoggingSettings:
    """Where the server writes what happened."""

    level: str = setting("info", "Least important line written.", choices=("debug", "info", "warning", "error"))
    file: str | None = setting(None, "File to append to. None: standard error.")
    access: bool = setting(False, "A line for every HTTP request; secrets in it are masked.")


@dataclass(frozen=True)
class WebSocketSettings:
    """Settings of Alphavel's WebSocket server."""

    host: str = setting("0.0.0.0", "Address to listen on.", env="ALPHAVEL_WEBSOCKET_HOST")
    port: int = setting(9501, "Port to listen on. 0: any free one.", env="ALPHAVEL_WEBSOCKET_PORT", minimum=0, maximum=65535)
    path: str = setting("/", "Path of Alphavel's own protocol.")
    allowed_origins: tuple[str, ...] = setting(
        (), "Web pages that may connect: `https://app.example.com`, `https://*.example.com`, `*`. None named: same host."
    )
    options: OptionsSettings = setting(OptionsSettings, "Sizes, times and limits.")
    broadcasting: BroadcastingSettings = setting(BroadcastingSettings, "How a push travels.")
    auth: AuthSettings = setting(AuthSettings, "Who is connected.")
    presence: PresenceSettings = setting(PresenceSettings, "Presence channels.")
    logging: LoggingSettings = setting(LoggingSettings, "Logs.")
