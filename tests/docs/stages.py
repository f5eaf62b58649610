"""
What stands around the Python code of a page when it is run: before it, what is the reader's own; after it, what has to be true.

The code of a page is one program, in a process with gevent and a server without clients; a push reaches nobody, and says so.
"""

from __future__ import annotations

SERVER = """
from gevent import monkey
monkey.patch_all()
from flask import Flask, abort, request, session
from alphavel.foundation import container
from alphavel.foundation.schema import load_settings
from alphavel.websocket import WebSocket, WebSocketServer, WebSocketSettings, blueprint

settings = {
    "apps": [{"id": app, "key": key, "secret": "app-secret"} for app, key in (("1", "app-key"), ("2", "other-key"))],
    "auth": {"secret": "a secret of more than thirty-two bytes"},
    "channels": {"chat.*": {"history": {"size": 100}}},
}
server = WebSocketServer(load_settings(WebSocketSettings, settings, "docs"))
container().instance("websocket", server)
server.start()
app = Flask(__name__)
app.secret_key = "a secret"
"""

BROADCASTING = """
from types import SimpleNamespace
from flask_wtf.csrf import CSRFProtect

ANN = SimpleNamespace(id=1, user_id=1, name="Ann")
User = Order = SimpleNamespace(query=SimpleNamespace(get=lambda number: ANN))
csrf = CSRFProtect(app)
celery = SimpleNamespace(task=lambda function: function)
claims = {"jti": "one token"}

def friends_of(user):
    return ["2", "3"]
"""
BROADCASTING_AFTER = """
def ask(path, channel, logged_in=True):
    client = app.test_client()
    if logged_in:
        with client.session_transaction() as stored:
            stored["user_id"] = 1
    return client.post(path, data={"socket_id": "1.2", "channel_name": channel})

assert ask("/broadcasting/auth", "private-orders.5").json["auth"].startswith("app-key:")
assert '"name":"Ann"' in ask("/broadcasting/auth", "presence-room.5").json["channel_data"]
assert ask("/broadcasting/auth", "private-orders.5", logged_in=False).status_code == 403
assert ask("/broadcasting/auth", "private-else.5").status_code == 403
assert '"watchlist":["2","3"]' in ask("/broadcasting/user-auth", "").json["user_data"]
assert shipped(5) is None
"""

HISTORY = """
for number in range(57):
    WebSocket.to_channel("chat.1").push({"event": "new-message", "data": {"text": "hi"}})
message = {"event": "new-message", "data": {"text": "hi"}}
"""
HISTORY_AFTER = """
assert WebSocket.history("chat.1")["serial"] == 58
assert WebSocket.history("chat.1", since={"epoch": EPOCH, "serial": 41})["recovered"] is True
WebSocket.to_channel("orders").push(message, idempotency_key="order-7-shipped")
assert WebSocket.get_stats()["deduplicated"] == 1
"""

WEBHOOKS_AFTER = """
import hashlib, hmac, json, time
body = json.dumps({"time_ms": int(time.time() * 1000), "events": [{"name": "channel_vacated", "channel": "a"}]})
signature = hmac.new(b"app-secret", body.encode(), hashlib.sha256).hexdigest()
headers = {"X-Pusher-Key": "app-key", "X-Pusher-Signature": signature, "Content-Type": "application/json"}
assert app.test_client().post("/webhooks", data=body, headers=headers).status_code == 200
assert app.test_client().post("/webhooks", data=body + " ", headers=headers).status_code == 401
"""

MONITORING = """
def reachable():
    return True
"""
MONITORING_AFTER = """
(check,) = ShopProvider().checks()
(finding,) = check()
assert "The warehouse answers." in str(finding)
"""

STAGES: dict[str, tuple[str, str]] = {
    "broadcasting.md": (SERVER + BROADCASTING, BROADCASTING_AFTER),
    "history.md": (SERVER + HISTORY + 'EPOCH = WebSocket.history("chat.1")["epoch"]\n', HISTORY_AFTER),
    "monitoring.md": (MONITORING, MONITORING_AFTER),
    "pusher.md": (SERVER, ""),
    "webhooks.md": (SERVER, WEBHOOKS_AFTER),
}
"""By page: what comes before its code, and what after it."""
