"""An application for Laravel Echo and pusher-js: who you are is what the header `X-User` says. For tests only, of course."""

from __future__ import annotations

import base64
import json
from pathlib import Path

import nacl.secret
import nacl.utils
from flask import Flask, request, send_from_directory

from alphavel.websocket import WebSocket, blueprint
from alphavel.websocket.auth.signatures import shared_secret

app = Flask(__name__)
app.register_blueprint(blueprint)

HERE = Path(__file__).parent
MODULES = HERE.parent / "node/node_modules"
MASTER_KEY = bytes(range(32))
PAGE = """<!doctype html><meta charset=utf-8><link rel=icon href=data:,><title>Echo</title>
<script src=/vendor/pusher-js/dist/web/pusher-with-encryption.js></script>
<script type=module>
  import Echo from "/vendor/laravel-echo/dist/echo.js";
  import { run } from "/scenarios.mjs";
  import { recover } from "/alphavel-pusher.js";
  window.log = [];
  window.run = (name, key) => run(name, { Pusher, Echo, recover, key, url: location.origin, say: (entry) => log.push(entry) });
</script>"""


@WebSocket.user_loader
def who():
    return request.headers.get("X-User")


@WebSocket.user_data
def about(user):
    return {"user_info": {"name": user.id.title()}, "watchlist": ["bob"] if user.id == "ann" else []}


@WebSocket.channel("private-orders.{owner}")
@WebSocket.channel("private-encrypted-orders.{owner}")
def own_orders(user, owner):
    return user.id == owner


@WebSocket.channel("private-kept.{owner}")
def kept(user, owner):
    return user.id == owner


@WebSocket.channel("private-room")
def room(user):
    return True


@WebSocket.channel("presence-room")
def present(user):
    return {"name": user.id.title()}


@app.get("/")
def page():
    return PAGE


@app.get("/vendor/<path:name>")
def vendor(name):
    return send_from_directory(MODULES, name)


@app.get("/scenarios.mjs")
def scenarios():
    return send_from_directory(HERE, "scenarios.mjs", mimetype="text/javascript")


@app.get("/connections")
def connections():
    return {"connections": WebSocket.get_stats()["connections"]}


@app.post("/push")
def push():
    asked = request.get_json()
    event = {"event": asked["event"], "data": asked["data"]}
    target = WebSocket.to_user(asked["user"]) if "user" in asked else WebSocket.to_channel(asked["channel"])
    return {"pushed": target.to_others().push(event)}


@app.post("/push-encrypted")
def push_encrypted():
    asked = request.get_json()
    box = nacl.secret.SecretBox(base64.b64decode(shared_secret(asked["channel"], MASTER_KEY)))
    sealed = box.encrypt(json.dumps(asked["data"]).encode(), nacl.utils.random(box.NONCE_SIZE))
    data = {"nonce": base64.b64encode(sealed.nonce).decode(), "ciphertext": base64.b64encode(sealed.ciphertext).decode()}
    return {"pushed": WebSocket.to_channel(asked["channel"]).push({"event": asked["event"], "data": data})}


@app.post("/terminate/<user_id>")
def terminate(user_id):
    return {"ended": WebSocket.app("1").terminate_user(user_id)}


@app.post("/forge")
def forge():
    """An endpoint that signs with a secret it does not know."""
    return {"auth": f"app-key:{'0' * 64}"}
