"""
A session of several Pusher clients, step by step. Each step says what each client was sent; texts that hold JSON are shown
as what they hold, and socket ids by the names of the clients.
"""

from __future__ import annotations

import json
import re
import time
import urllib.parse
import urllib.request
from typing import Any

from alphavel.websocket.auth.signatures import sign_request
from tests.websocket.clients import Closed
from tests.websocket.pusher import KEY, SECRET, PusherClient

PATH = f"/app/{KEY}?protocol=7&client=js&version=8.6.0&flash=false"
ANN, BOB = '{"user_id":"u1","user_info":{"name":"Ann"}}', '{"user_id": "u2", "user_info": {"name": "Bob"}}'


class Session:
    """
    Attributes:
        steps: `{step: {client: [frames]}}`, in order.
    """

    def __init__(self, port: int, settle_s: float = 0.0) -> None:
        """
        Args:
            port: The server's.
            settle_s: Seconds to leave a server that handles connections independently to itself, before clients are asked.
        """
        self.steps: dict[str, dict[str, list[Any]]] = {}
        self._port = port
        self._settle_s = settle_s
        self._clients: dict[str, PusherClient] = {}
        self._gone: list[PusherClient] = []

    def run(self) -> dict[str, dict[str, list[Any]]]:
        """Play the session to its end and return the steps."""
        try:
            for step in (_connecting, _public, _private, _presence, _client_events, _cache, _users, _nonsense):
                step(self)
        finally:
            for client in (*self._clients.values(), *self._gone):
                client.close()
        return self.steps

    # What clients do

    def connect(self, *names: str) -> None:
        """Connect clients, with these names."""
        for name in names:
            self._clients[name] = PusherClient(self._port, PATH)

    def client(self, name: str) -> PusherClient:
        return self._clients[name]

    def publish(self, channel: str, event: str, data: str, excluded: str | None = None) -> None:
        """Publish as the application does, over the HTTP API."""
        body: dict[str, Any] = {"name": event, "channels": [channel], "data": data}
        if excluded:
            body["socket_id"] = self.client(excluded).socket_id
        content = json.dumps(body).encode()
        query = urllib.parse.urlencode(sign_request(KEY, SECRET, "POST", "/apps/1/events", {}, content, time.time()))
        url = f"http://127.0.0.1:{self._port}/apps/1/events?{query}"
        request = urllib.request.Request(url, content, {"Content-Type": "application/json"})
        urllib.request.urlopen(request, timeout=30).close()

    def leave(self, *names: str) -> None:
        """Cut connections."""
        for name in names:
            self._clients.pop(name).close()

    def step(self, name: str) -> None:
        """Note under a name what each client has been sent since the last step."""
        time.sleep(self._settle_s)
        # Twice: when the first time is over, the server has handled all that clients sent, and told the others of it.
        noted: dict[str, list[Any]] = {who: [] for who in self._clients}
        for who, client in [*self._clients.items(), *self._clients.items()]:
            if who in self._clients:
                noted[who] += self._frames_of(client)
                if noted[who] and noted[who][-1].get("closed"):
                    self._gone.append(self._clients.pop(who))
        self.steps[name] = {who: json.loads(self._anonymous(json.dumps(frames))) for who, frames in noted.items() if frames}

    def _frames_of(self, client: PusherClient) -> list[Any]:
        frames: list[Any] = []
        try:
            client.send("pusher:ping", {})
            while not frames or frames[-1]["event"] != "pusher:pong":
                frames.append(client.receive())
            return frames[:-1]
        except (Closed, ConnectionError) as closed:
            return [*frames, {"closed": getattr(closed, "code", None)}]

    def _anonymous(self, text: str) -> str:
        for name, client in self._clients.items():
            text = text.replace(client.socket_id, f"<{name}>")
        return re.sub(r"\b[0-9a-f]{64}\b", "<signature>", text)


def _connecting(session: Session) -> None:
    with PusherClient(session._port, PATH, greeted=False) as client:
        greeting = client.receive()
        greeting["data"]["socket_id"] = "<socket_id>"
        client.send("pusher:ping", {})
        session.steps["a greeting, and a pong"] = {"a": [greeting, client.receive()]}
    frames: list[Any] = []
    with PusherClient(session._port, PATH.replace(KEY, "nobody"), greeted=False) as client:
        try:
            while True:
                frames.append(client.receive())
        except Closed as closed:
            frames.append({"closed": closed.code})
    for frame in frames:
        if "data" in frame:
            frame["data"].pop("message", None)  # words are everybody's own
    session.steps["an unknown key"] = {"a": frames}
    session.connect("a", "b")


def _public(session: Session) -> None:
    a, b = session.client("a"), session.client("b")
    a.join("news", answer=False)
    session.step("a subscribes to a public channel")
    a.join("news", answer=False)
    session.step("a subscribes again")
    b.join("news", answer=False)
    session.step("b subscribes")
    session.publish("news", "App\\Events\\Shipped", '{"id":1}')
    session.step("an event")
    session.publish("news", "text", "no JSON", excluded="a")
    session.step("an event that is no JSON, not for a")
    session.publish("elsewhere", "x", "{}")
    session.step("an event of another channel")
    a.send("pusher:unsubscribe", {"channel": "news"})
    session.step("a unsubscribes")
    a.send("pusher:unsubscribe", {"channel": "news"})
    session.step("a unsubscribes again")
    session.publish("news", "x", "[1]")
    session.step("an event after that")
    b.join("has space", answer=False)
    session.step("a name that is none")


def _private(session: Session) -> None:
    a, b = session.client("a"), session.client("b")
    a.join("private-x", answer=False)
    a.join("private-encrypted-x", answer=False)
    session.step("a subscribes to a private and an encrypted channel")
    session.publish("private-x", "x", '{"id":2}')
    session.publish("private-encrypted-x", "y", '{"nonce":"bm9uY2U=","ciphertext":"c2VhbGVk"}')
    session.step("an event of each")
    for auth in (f"{KEY}:{'0' * 64}", "", KEY):
        b.join("private-x", answer=False, auth=auth)
    session.step("b forges")
    session.publish("private-x", "x", '{"id":3}')
    session.step("an event after that, for a alone")


def _presence(session: Session) -> None:
    a, b = session.client("a"), session.client("b")
    session.connect("c")
    a.join("presence-room", ANN, answer=False)
    session.step("Ann joins")
    b.join("presence-room", BOB, answer=False)
    session.step("Bob joins")
    session.client("c").join("presence-room", BOB, answer=False)
    session.step("Bob joins with a second connection")
    b.send("pusher:unsubscribe", {"channel": "presence-room"})
    session.step("Bob leaves with the first")
    session.leave("c")
    session.step("and is cut off with the second")
    b.join("presence-room", '{"user_id":"u3"}', answer=False)
    session.step("somebody without info joins")
    b.send("pusher:unsubscribe", {"channel": "presence-room"})
    session.step("and leaves")
    b.join("presence-room", '{"user_id":7,"user_info":{}}', answer=False)
    session.step("somebody whose id is a number joins")
    b.send("pusher:unsubscribe", {"channel": "presence-room"})
    session.step("and leaves as well")
    b.join("presence-room", BOB, answer=False, channel_data=ANN)
    session.step("b says to be Ann, signed for Bob")
    b.join("presence-room", answer=False)
    session.step("b does not say who it is")


def _client_events(session: Session) -> None:
    a, b = session.client("a"), session.client("b")
    for client in (a, b):
        client.join("private-chat", answer=False)
        client.join("news", answer=False)
    session.step("a and b are on the same channels")
    b.join("presence-room", BOB, answer=False)
    session.step("Bob joins once more")
    a.whisper("private-chat", data={"z": 1})
    session.step("a whispers on a private channel")
    a.whisper("presence-room", data={"z": 1}, user_id="forged")
    session.step("a whispers on a presence channel, as somebody else")
    a.whisper("news", data={"z": 1})
    session.step("a whispers on a public channel")
    b.whisper("private-x", data={"z": 1})
    session.step("b whispers on a channel of a's")
    a.text(json.dumps({"event": "no-client", "channel": "private-chat", "data": {}}))
    session.step("a sends what does not begin with client-")


def _cache(session: Session) -> None:
    a, b = session.client("a"), session.client("b")
    a.join("cache-x", answer=False)
    session.step("a joins an empty cache channel")
    session.publish("cache-x", "first", '{"id":4}')
    session.publish("cache-x", "last", '{"id":5}')
    session.step("two events")
    b.join("cache-x", answer=False)
    session.step("b joins it")
    b.join("private-encrypted-cache-x", answer=False)
    session.step("b joins an empty encrypted one")


def _users(session: Session) -> None:
    a = session.client("a")
    a.sign_in("u1", answer=False, user_info={"name": "Ann"})
    session.step("a signs in")
    a.join("#server-to-user-u1", answer=False)
    session.step("a joins the user's channel")
    session.publish("#server-to-user-u1", "hello", '{"id":6}')
    session.step("an event for the user")
    a.join("#server-to-user-u2", answer=False)
    session.step("a joins the channel of somebody else")
    session.connect("d")
    session.client("d").sign_in("u9", answer=False, auth=f"{KEY}:{'0' * 64}")
    session.step("d forges a sign-in")


def _nonsense(session: Session) -> None:
    b = session.client("b")
    for name, text in {
        "no JSON": "no JSON",
        "no object": "[]",
        "no event": '{"data":{}}',
        "an unknown event of Pusher's": '{"event":"pusher:nonsense","data":{}}',
        "what only servers say": '{"event":"pusher_internal:member_added","channel":"presence-room","data":"{}"}',
    }.items():
        b.text(text)
        session.step(name)
