"""
gunicorn's settings for an application with Alphavel's WebSocket server. Either of

    gunicorn -k geventwebsocket -c config/gunicorn.conf.py shop:app
    gunicorn -k egg:alphavel#geventwebsocket -c config/gunicorn.conf.py shop:app

What is not named here is gunicorn's default, https://docs.gunicorn.org/en/stable/settings.html. Its limits of requests
(limit_request_*), forwarded_allow_ips, keepalive and proxy_protocol do nothing under this worker: what they are for is in
config/websocket.yaml, options.max_header_size, options.handshake_timeout and proxies.
"""

import os

from gunicorn.workers import SUPPORTED_WORKERS

# Lets -k geventwebsocket resolve: gunicorn itself knows only its own workers by short names.
SUPPORTED_WORKERS["geventwebsocket"] = "alphavel.websocket.gunicorn.GeventWebSocketWorker"
worker_class = "geventwebsocket"

# Where it listens: ADDRESS:PORT or unix:PATH, several with commas between them.
bind = os.environ.get("ALPHAVEL_BIND", "0.0.0.0:9501").split(",")
# Connections the kernel keeps until they are accepted; at most net.core.somaxconn. After a restart everybody comes at once.
backlog = 4096

# Several are one server, as with `alpha websocket:serve --workers`: pushes, presence and timers know no difference. One for
# each core that they may have.
workers = int(os.environ.get("WEB_CONCURRENCY", "1"))

# HTTP requests that a worker answers at the same time. Open WebSockets do not count: options.max_connections is their bound.
worker_connections = 1000

# A worker whose loop stands still for so many seconds is killed and replaced. Not the time a request may take.
timeout = 30
# Where workers show that they are alive, by touching a file: in memory, because a slow disk must not make them look dead.
worker_tmp_dir = "/dev/shm" if os.path.isdir("/dev/shm") else None  # noqa: S108 (gunicorn makes a file of its own in it)

# SIGTERM and SIGHUP: a worker has so many seconds to hand its WebSockets over (options.drain_timeout in
# config/websocket.yaml, 10) and to finish its requests. What stops gunicorn (Supervisor, systemd) has to wait for longer.
graceful_timeout = 30

# Off: after so many requests a worker is replaced, against leaks in the application. A handshake is a request, and replacing a
# worker sends all its clients to reconnect; where it has to be, add max_requests_jitter, so that not all do it at once.
max_requests = 0
max_requests_jitter = 0

# Off: the application must be imported after gevent has patched the process, and SIGHUP is to bring new code.
preload_app = False

# TLS without a proxy; SIGHUP reads a renewed certificate. Leave both out behind a proxy.
certfile = os.environ.get("ALPHAVEL_TLS_CERT") or None
keyfile = os.environ.get("ALPHAVEL_TLS_KEY") or None

# Errors go to standard error, for Supervisor, journald or Docker. Requests are logged where ALPHAVEL_ACCESS_LOG names a file,
# or "-", standard output: the client's address, as the proxies of proxies.trusted tell it, and the path, but neither the query
# string nor Referer, which can hold tokens.
errorlog = "-"
loglevel = os.environ.get("ALPHAVEL_LOG_LEVEL", "info")
accesslog = os.environ.get("ALPHAVEL_ACCESS_LOG") or None
access_log_format = '%(h)s "%(m)s %(U)s %(H)s" %(s)s %(b)s %(L)s "%(a)s"'

# The name in `ps`, where the package setproctitle is installed.
proc_name = "alphavel"
