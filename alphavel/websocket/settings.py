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

    workers: int = setting(1, "Processes at one port, which are one server to all.", minimum=1)
    max_connections: int = setting(100_000, "Open connections of each worker; more are answered 503.", minimum=1)
    max_message_size: int = setting(2 * MIB, "Largest message accepted; larger: close 1009.", unit="bytes", minimum=1)
    max_outbox: int = setting(
        MIB, "Bytes that may wait for one slow reader; more: it is closed with 4200.", unit="bytes", minimum=1024
    )
    max_unfinished_messages: int = setting(
        128 * MIB,
        "Memory of a worker for messages whose ends have not come yet; past it, the connection whose message began first is "
        "closed with 1013.",
        unit="bytes", minimum=1024,
    )  # fmt: skip
    max_connections_per_address: int | None = setting(
        None, "Open connections of one client's address (IPv6: a /64) on all workers; more are answered 429. None: any.",
        minimum=1,
    )  # fmt: skip
    max_handshakes_per_address: int | None = setting(
        None, "Handshakes of one client's address in a minute in each worker, refused ones too; more: 429. None: any.",
        minimum=1,
    )  # fmt: skip
    max_connections_per_user: int | None = setting(
        None, "Open connections of one user on all workers; more: 429, Pusher's clients are closed with 4004. None: any.",
        minimum=1,
    )  # fmt: skip
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
        1000,
        "Requests whose headers have not come yet. More wait in the backlog; when the oldest has taken a tenth of its time, "
        "it is ended for the next.",
        minimum=1,
    )
    handshake_timeout: float = setting(10.0, "Time for a request's headers to arrive.", unit="seconds", minimum=0.1)
    body_timeout: float = setting(
        60.0,
        "Time that a request's body may stop coming, or its answer may not be taken; then the connection is closed.",
        unit="seconds",
        minimum=0.1,
    )
    close_timeout: float = setting(5.0, "Time for a peer to end a closing handshake.", unit="seconds", minimum=0.1)
    drain_timeout: float = setting(
        10.0, "Time to hand clients over and finish handlers when stopping.", unit="seconds", minimum=0
    )
    worker_silence: float = setting(
        10.0, "One of several workers that says nothing for so long is as good as gone to the others, until it goes on.",
        unit="seconds", minimum=0.5,
    )  # fmt: skip
    worker_timeout: float | None = setting(
        60.0, "One of several workers whose loop stands still for so long is ended and replaced. None: never.",
        unit="seconds", minimum=1,
    )  # fmt: skip
    heartbeat_check_interval: float = setting(
        60.0, "A connection silent for so long is sent a ping.", unit="seconds", minimum=1
    )
    heartbeat_idle_time: float = setting(
        600.0, "A connection silent for so long, pongs included, is closed with 4201.", unit="seconds", minimum=1
    )
    backlog: int = setting(4096, "Connections the kernel keeps until they are accepted.", minimum=1)
    max_history: int = setting(
        64 * MIB, "Memory that the histories of all channels of an app take in one worker.", unit="bytes", minimum=1024
    )
    compression: CompressionSettings = setting(CompressionSettings, "permessage-deflate, off by default.")


@dataclass(frozen=True)
class RedisTlsSettings:
    """TLS to Redis, where the URL begins with rediss."""

    ca_file: str | None = setting(None, "PEM file of who signs Redis' certificate. None: those the system trusts.")
    cert_file: str | None = setting(None, "PEM file of a certificate to show to Redis, where it asks for one.")
    key_file: str | None = setting(None, "PEM file of that certificate's key. None: it is in the same file.")
    verify: bool = setting(True, "Check Redis' certificate and that it is for the host of the URL.")


@dataclass(frozen=True)
class RedisSettings:
    """The bus between servers, and from those that only send, over Redis pub/sub."""

    url: str = setting(
        "redis://127.0.0.1:6379/0",
        "Where Redis is: redis://USER:PASSWORD@HOST:PORT/DATABASE, rediss:// over TLS, unix:///PATH, or "
        "redis+sentinel://HOST:PORT,HOST:PORT/SERVICE/DATABASE (rediss+sentinel:// over TLS; ?sentinel_username=…&"
        "sentinel_password=… where Sentinels ask for it).",
        env="ALPHAVEL_REDIS_URL",
        secret=True,
    )
    username: str | None = setting(None, "User of Redis' access control list, where the URL names none.")
    password: str | None = setting(None, "Password, where the URL has none.", env="ALPHAVEL_REDIS_PASSWORD", secret=True)
    tls: RedisTlsSettings = setting(RedisTlsSettings, "TLS to Redis, where the URL begins with rediss.")
    cluster: bool = setting(False, "The URL names a node of a Redis Cluster (Redis 7): its sharded pub/sub is used.")
    prefix: str = setting("alphavel:", "Begins the names of what we use there; one for each fleet.")
    secret: str | None = setting(
        None, "Signs what is published, where others can write to Redis, too; the same for the whole fleet.", secret=True
    )
    timeout: float = setting(5.0, "Time to connect, and to wait for an answer.", unit="seconds", minimum=0.1)
    max_queue: int = setting(
        16 * MIB, "Bytes that may wait while Redis is away; more is dropped and counted.", unit="bytes", minimum=1024
    )
    max_kept: int = setting(
        8 * MIB,
        "Bytes of what was published that are kept, for a minute, to tell a server again that Redis did not reach meanwhile.",
        unit="bytes",
        minimum=0,
    )
    lease: float = setting(
        15.0, "A server that the others have not heard for so long is gone, and its members with it.", unit="seconds", minimum=1
    )
    keep: float = setting(
        60.0,
        "While Redis is away: time that the others are taken to be as they were, then for gone.",
        unit="seconds",
        minimum=1,
    )

    @property
    def place(self) -> str:
        """Where Redis is, for people: without the password that the URL may hold."""
        return self.url.rpartition("@")[2].rpartition("//")[2]


@dataclass(frozen=True)
class HttpSettings:
    """How a process that only sends reaches a server. It signs with the id, key and secret of its app, see `apps`."""

    url: str = setting("http://127.0.0.1:9501", "Where the server is.", env="ALPHAVEL_WEBSOCKET_URL")
    timeout: float = setting(5.0, "Time to connect, and to wait for an answer.", unit="seconds", minimum=0.1)


@dataclass(frozen=True)
class BroadcastingSettings:
    """How a push reaches those it is for."""

    driver: str = setting(
        "memory",
        "memory: this server, all its workers. redis: all servers, over Redis; a process that serves nobody only sends. http: "
        "this process only sends, to the HTTP API of a server.",
        env="ALPHAVEL_BROADCAST_DRIVER",
        choices=("memory", "redis", "http"),
    )
    redis: RedisSettings = setting(RedisSettings, "The driver redis.")
    http: HttpSettings = setting(HttpSettings, "The driver http.")
    writer: str = setting(
        "auto",
        "How frames get into sockets: io_uring (many in one system call), send (in C), python; auto: the first there is.",
        env="ALPHAVEL_WRITER",
        choices=("auto", "io_uring", "send", "python"),
    )
    idempotency_window: float = setting(
        300.0, "Time in which a second push with the same idempotency_key is dropped.", unit="seconds", minimum=1
    )
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
class ProxiesSettings:
    """Reverse proxies and load balancers before this server."""

    trusted: tuple[str, ...] = setting(
        (),
        "Addresses and networks (`10.0.0.0/8`; `unix`: a Unix socket's peers) whose X-Forwarded-For and X-Forwarded-Proto are "
        "believed. None named: nobody's.",
        env="ALPHAVEL_TRUSTED_PROXIES",
    )
    proxy_protocol: bool = setting(
        False, "They begin each connection with the PROXY protocol, version 1 or 2.", env="ALPHAVEL_PROXY_PROTOCOL"
    )


@dataclass(frozen=True)
class TlsSettings:
    """TLS ended by this server, where no proxy does it. Both are read again on SIGHUP."""

    cert: str | None = setting(None, "PEM file of the certificate and those between it and the root.", env="ALPHAVEL_TLS_CERT")
    key: str | None = setting(None, "PEM file of its key, without a password.", env="ALPHAVEL_TLS_KEY")


@dataclass(frozen=True)
class PresenceSettings:
    """Presence channels."""

    max_members: int | None = setting(None, "Users one presence channel takes. None: any number.", minimum=1)
    max_info_size: int = setting(2048, "JSON size of one member's info.", unit="bytes", minimum=2)


@dataclass(frozen=True)
class HistorySettings:
    """What a channel keeps of what was published on it, for those who come back."""

    size: int = setting(0, "Messages; 0: none, the channel keeps no history.", minimum=0, maximum=100_000)
    ttl: float = setting(300.0, "Time a message is kept.", unit="seconds", minimum=1)
    max_bytes: int = setting(
        256 * 1024, "Bytes of memory, texts and frames, that the messages of one channel take.", unit="bytes", minimum=1024
    )


@dataclass(frozen=True)
class ChannelSettings:
    """Channels whose names match a pattern; `*` stands for any characters, `?` for one."""

    history: HistorySettings = setting(HistorySettings, "What they keep.")
    delta: bool = setting(
        False,
        "Tell clients that ask for it, `?delta=true`, what a message has changed since the one before, where that is shorter.",
    )


@dataclass(frozen=True)
class AppLimits:
    """What the Pusher clients of one app, and those who publish to it, may do. The defaults are hosted Pusher's."""

    connections: int | None = setting(None, "Open connections on all workers; more are closed with 4004. None: any.", minimum=1)
    channel_name_length: int = setting(164, "Characters of a channel name.", minimum=1)
    event_name_length: int = setting(200, "Characters of an event name.", minimum=1)
    event_size: int = setting(10 * 1024, "Data of one event; more: 413.", unit="bytes", minimum=1)
    channels_per_event: int = setting(100, "Channels of one event.", minimum=1)
    events_per_batch: int = setting(10, "Events of one batch.", minimum=1)
    presence_members: int | None = setting(100, "Users one presence channel takes. None: any number.", minimum=1)
    presence_info_size: int = setting(1024, "JSON size of one member's user_info.", unit="bytes", minimum=2)
    user_id_length: int = setting(128, "Characters of a user's id.", minimum=1)
    client_events_per_second: int = setting(10, "Client events of one connection; more are refused with 4301.", minimum=1)
    client_event_size: int = setting(10 * 1024, "Data of one client event; more is refused.", unit="bytes", minimum=1)
    watchlist: int = setting(100, "Users one connection may watch; the rest is left out, with 4302.", minimum=1)
    cache_ttl: float = setting(1800.0, "Time the last event of a cache channel is kept.", unit="seconds", minimum=1)


@dataclass(frozen=True)
class WebhookSettings:
    """A URL that is told what happens on an app's channels, in requests signed with the app's secret."""

    url: str = setting("", "Where to: `https://shop.example.com/webhooks`.")
    events: tuple[str, ...] = setting(
        (),
        "Of these only: channel_occupied, channel_vacated, member_added, member_removed, client_event, cache_miss, "
        "subscription_count. None named: of all.",
    )
    channel_prefix: str = setting("", "Of channels only whose names begin so.")
    headers: dict[str, str] = setting(dict, "Further headers of each request.")
    timeout: float = setting(5.0, "Time a request may take.", unit="seconds", minimum=0.1)
    max_events: int = setting(100, "Events told in one request.", minimum=1)
    max_queue: int = setting(10_000, "Events that may wait to be told; more are dropped and counted.", minimum=1)


@dataclass(frozen=True)
class AppSettings:
    """An app of the Pusher protocol: its clients connect to `/app/KEY`, its publishers to `/apps/ID`."""

    id: str | int = setting("", "Names the app in the HTTP API; some libraries want digits only.")
    key: str = setting("", "Names the app to clients. Not secret.")
    secret: str = setting("", "Signs requests, subscriptions and webhooks; clients must never have it.", secret=True)
    enabled: bool = setting(True, "false: its clients are closed with 4003.")
    encryption_master_key: str | None = setting(
        None, "Base64 of 32 bytes, for /broadcasting/auth to hand out the keys of encrypted channels.", secret=True
    )
    allowed_origins: tuple[str, ...] = setting(
        (), "Web pages that may connect, as above; others are closed with 4009. None named: those named above."
    )
    tls_only: bool = setting(
        False, "Close clients with 4000 that come without TLS; a proxy's word counts where proxies.trusted names the proxy."
    )
    client_events: bool = setting(False, "Let clients send events to each other on private and presence channels.")
    subscription_count: bool = setting(False, "Tell the subscribers of a channel how many they are; not on presence channels.")
    authorize_within: float | None = setting(
        None, "Close clients with 4009 that neither sign in nor join a private or presence channel in time. None: never.",
        unit="seconds", minimum=1,
    )  # fmt: skip
    activity_timeout: int = setting(120, "Silence after which a client sends a ping.", unit="seconds", minimum=1)
    webhooks: tuple[WebhookSettings, ...] = setting((), "Who is told what happens on channels.")
    limits: AppLimits = setting(AppLimits, "Hosted Pusher's limits.")


@dataclass(frozen=True)
class MetricsSettings:
    """Metrics for Prometheus, of all workers in one answer. docs/monitoring.md lists them."""

    enabled: bool = setting(False, "Answer at `path`; to be set before the start.", env="ALPHAVEL_METRICS")
    path: str = setting("/metrics", "Path of the answer.")
    token: str | None = setting(
        None,
        "Who sends it as `Authorization: Bearer` may read them from anywhere.",
        env="ALPHAVEL_METRICS_TOKEN",
        secret=True,
    )
    allowed_addresses: tuple[str, ...] = setting(
        ("127.0.0.0/8", "::1"), "Who may read them without the token, unless it comes through a proxy: addresses and networks."
    )
    channels: tuple[str, ...] = setting(
        (), "Channels whose subscribers and members are shown by name: `presence-lobby`, `chat.*`. The first 1,000 that match."
    )


@dataclass(frozen=True)
class DashboardSettings:
    """The dashboard at /alphavel/dashboard."""

    password: str | None = setting(
        None, "Lets in who knows it, 12 characters at least. None: nobody, but whom `@WebSocket.dashboard_guard` lets in.",
        env="ALPHAVEL_DASHBOARD_PASSWORD", secret=True,
    )  # fmt: skip


@dataclass(frozen=True)
class LoggingSettings:
    """Where the server writes what happened."""

    level: str = setting("info", "Least important line written.", choices=("debug", "info", "warning", "error"))
    format: str = setting("text", "text for people, json for programs: one object a line.", choices=("text", "json"))
    file: str | None = setting(None, "File to append to. None: standard error.")
    access: bool = setting(False, "A line for every HTTP request; secrets in it are masked.")


@dataclass(frozen=True)
class EventStreamSettings:
    """Server-Sent Events, for clients that cannot have a WebSocket."""

    path: str | None = setting("/sse", "Where `?channels=…` is answered by an event stream. None: nowhere.")


@dataclass(frozen=True)
class TracingSettings:
    """OpenTelemetry."""

    enabled: bool = setting(False, "A span for each publish; needs OpenTelemetry's API.")


@dataclass(frozen=True)
class WebSocketSettings:
    """Settings of Alphavel's WebSocket server."""

    host: str = setting("0.0.0.0", "Address to listen on.", env="ALPHAVEL_WEBSOCKET_HOST")
    port: int = setting(9501, "Port to listen on. 0: any free one.", env="ALPHAVEL_WEBSOCKET_PORT", minimum=0, maximum=65535)
    path: str = setting("/", "Path of Alphavel's own protocol.")
    allowed_origins: tuple[str, ...] = setting(
        (), "Web pages that may connect: `https://app.example.com`, `https://*.example.com`, `*`. None named: same host."
    )
    tls: TlsSettings = setting(TlsSettings, "TLS, where no proxy ends it. Read again on SIGHUP; open connections stay.")
    proxies: ProxiesSettings = setting(ProxiesSettings, "Reverse proxies and load balancers before this server.")
    options: OptionsSettings = setting(OptionsSettings, "Sizes, times and limits.")
    broadcasting: BroadcastingSettings = setting(BroadcastingSettings, "How a push travels.")
    event_stream: EventStreamSettings = setting(EventStreamSettings, "Server-Sent Events.")
    auth: AuthSettings = setting(AuthSettings, "Who is connected.")
    presence: PresenceSettings = setting(PresenceSettings, "Presence channels.")
    channels: dict[str, ChannelSettings] = setting(
        dict,
        'Channels by patterns of their names, the first that matches decides: `"chat.*": {history: {size: 100, ttl: 5 min}}` '
        "keeps what was said for those who come back, `{delta: true}` sends what has changed to those who ask.",
    )
    apps: tuple[AppSettings, ...] = setting(
        (),
        "Apps of the Pusher protocol, for Laravel Echo, pusher-js and Pusher's server libraries. Alphavel's own protocol and "
        "`WebSocket.to_channel` are at home in the first one.",
    )
    tracing: TracingSettings = setting(TracingSettings, "Spans for OpenTelemetry.")
    metrics: MetricsSettings = setting(MetricsSettings, "Metrics for Prometheus; off by default.")
    dashboard: DashboardSettings = setting(DashboardSettings, "The dashboard; off unless somebody may see it.")
    logging: LoggingSettings = setting(LoggingSettings, "Logs.")
