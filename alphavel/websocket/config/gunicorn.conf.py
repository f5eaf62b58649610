"""
gunicorn settings for an application with Alphavel's WebSocket server: `gunicorn -c config/gunicorn.conf.py shop:app`.

With this file the worker's short name works too: `gunicorn -c config/gunicorn.conf.py -k geventwebsocket shop:app`.
"""

import os

from gunicorn.workers import SUPPORTED_WORKERS

SUPPORTED_WORKERS["geventwebsocket"] = "alphavel.websocket.gunicorn.GeventWebSocketWorker"

worker_class = "geventwebsocket"

# One worker: the memory driver of broadcasting connects the clients of one process.
workers = 1

bind = os.environ.get("ALPHAVEL_BIND", "0.0.0.0:9501")
backlog = 4096

# HTTP requests that are answered at the same time. Open WebSockets do not count.
worker_connections = 1000

# A worker that stops has so long to hand its WebSockets over and to finish its requests; drain_timeout in
# config/websocket.yaml should be smaller.
graceful_timeout = 30
keepalive = 5

accesslog = None
errorlog = "-"
