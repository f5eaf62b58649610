"""A server of several workers, in processes of their own, and an application that says which worker does what."""

from __future__ import annotations

import contextlib
import json
import os
import socket

from tests.support import Program, free_port, run, script, wait_until
from tests.websocket.clients import Client, Closed
from tests.websocket.conftest import SECRET
from tests.websocket.pusher import PusherClient
from tests.websocket.tokens import bearer

PATIENCE_S = 60.0
_TRIES = 3  # a machine that is busy does not answer every time

APP = """
import json
import os
import socket
import time
from flask import Flask
from gevent import monkey
from gevent.pywsgi import WSGIServer
from alphavel.websocket import WebSocket, blueprint

VERSION = 1
app = Flask(__name__)
app.register_blueprint(blueprint)

@WebSocket.on("worker_start")
def obey():
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(f".do-{os.getpid()}")
    listener.listen(128)
    WSGIServer(listener, do, log=None).start()
    os.rename(f".do-{os.getpid()}", f"do-{os.getpid()}")

def do(environ, start_response):
    start_response("200 OK", [("Connection", "close")])
    return [json.dumps(eval(environ["wsgi.input"].read().decode())).encode()]

def block_the_loop():
    monkey.get_original("time", "sleep")(600)

@app.get("/hello")
def hello():
    return "hello"

@WebSocket.channel("presence-{room}")
def room(user, room):
    return {"name": user.id}

BANNED = set()

@WebSocket.channel("private-orders.{shop}")
def orders(user, shop):
    return user.id not in BANNED

@WebSocket.event("where")
def where(connection):
    connection.send({"event": "here", "data": os.getpid()})

@WebSocket.every(0.1)
def tick():
    with open("ticks", "a") as ticks:
        ticks.write(f"{os.getpid()}\\n")
"""

CONFIG = """
auth: {anonymous: true}
options: {drain_timeout: 5, OPTIONS}
apps:
  - id: 1
    key: app-key
    secret: app-secret
    client_events: true
    webhooks: [{url: "%s"}]
"""


class Server:
    """`alpha websocket:serve --workers N` with an application of the tests, or gunicorn with the options that are given."""

    def __init__(self, folder, workers=2, webhooks=None, more="", options="", app="", gunicorn=None, **environment):
        (folder / "shop.py").write_text(APP + app)
        (folder / "config").mkdir(exist_ok=True)
        config = CONFIG if webhooks else CONFIG[: CONFIG.index("    webhooks")]
        config = (config % webhooks.url if webhooks else config).replace("OPTIONS", options) + more
        (folder / "config/websocket.yaml").write_text(config)
        self.port = free_port()
        self.folder = folder
        self.run_dir = {"ALPHAVEL_RUN_DIR": str(folder / "run")}  # other servers' workers are not to be found there
        self.clients = []
        if gunicorn is None:
            command = [script("alpha"), "websocket:serve", "--app", "shop:app", "--host", "127.0.0.1", "--port", str(self.port)]
            self._command = [*command, "--workers", str(workers)]
        else:
            self._command = [script("gunicorn"), *gunicorn, "-b", f"127.0.0.1:{self.port}", "-w", str(workers), "shop:app"]
        self._environment = {"ALPHAVEL_JWT_SECRET": SECRET, **self.run_dir, **environment}
        self.start()
        try:
            if gunicorn is None:
                self.program.wait_for("auth  ", PATIENCE_S)
            else:
                wait_until(lambda: len(self.pids) == workers, PATIENCE_S, f"all workers of:\n{self.program.output}")
        except BaseException:  # nobody has it yet who could close it
            self.close()
            raise

    def start(self):
        """Start it, or start it again after it has ended; it does not serve yet."""
        self.program = Program(*self._command, cwd=self.folder, **self._environment)

    def close(self):
        for client in self.clients:
            client.close()
        self.program.__exit__()

    @property
    def pids(self):
        """Process ids of the workers that answer, in order."""
        for _ in range(_TRIES):
            stats = run(script("alpha"), "websocket:stats", "--json", cwd=self.folder, **self.run_dir)
            if stats.returncode == 0:
                return [worker["pid"] for worker in json.loads(stats.stdout)["workers"]]
        return []

    def connect(self, user=None, worker=None, path="/"):
        """Connect until it is to the wanted worker; `user`: an id, or headers with a token."""
        with contextlib.ExitStack() as others:  # they stay meanwhile: a worker that has more than the others lets those accept
            while True:
                headers = user if isinstance(user, dict) else bearer(user) if user else {}
                client = Client(self.port, path, headers, timeout_s=PATIENCE_S)
                client.send("where")
                client.pid = client.receive()["data"]
                if worker in (None, client.pid):
                    self.clients.append(client)
                    return client
                others.enter_context(client)

    def connect_pusher(self, process_part):
        """Connect one of Pusher's clients until it is to the worker whose socket ids begin so."""
        while True:
            client = PusherClient(self.port, greeted=False, timeout_s=PATIENCE_S)
            with contextlib.suppress(Closed):  # the app is full, for as long as the one before has not left
                client.socket_id = client.receive()["data"]["socket_id"]
                if client.socket_id.startswith(f"{process_part}."):
                    self.clients.append(client)
                    return client
            client.close()

    def do(self, code, worker=None):
        """Have a worker evaluate code, and return what came out; None: the one that came last."""
        return wait_until(lambda: self._try(code, worker), PATIENCE_S, f"{code} on {worker} of:\n{self.program.output}")[0]

    def _try(self, code, worker):
        places = [self.folder / f"do-{worker}"] if worker else sorted(self.folder.glob("do-*"), key=os.path.getmtime)[::-1]
        for place in places:
            with contextlib.suppress(FileNotFoundError, ConnectionRefusedError), socket.socket(socket.AF_UNIX) as sock:
                sock.settimeout(PATIENCE_S)
                sock.connect(str(place))
                sock.sendall(f"POST / HTTP/1.1\r\nContent-Length: {len(code.encode())}\r\n\r\n{code}".encode())
                answer = b"".join(iter(lambda: sock.recv(65536), b""))
                assert b" 200 " in answer, f"{code}: {answer.decode()}\n{self.program.output}"
                return [json.loads(answer.partition(b"\r\n\r\n")[2])]
        return None

    def agree(self, code, expected, workers):
        """Wait until all workers say the same."""
        wait_until(lambda: all(self.do(code, worker) == expected for worker in workers), PATIENCE_S, f"{code}: {expected}")
