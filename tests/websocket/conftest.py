"""Everything here runs as the server does: monkey-patched, many greenlets in one thread."""

from gevent import monkey

monkey.patch_all()

import dataclasses  # noqa: E402
import gc  # noqa: E402

import pytest  # noqa: E402

from alphavel.websocket import WebSocketServer  # noqa: E402
from alphavel.websocket.serve import Service  # noqa: E402
from alphavel.websocket.settings import AuthSettings, OptionsSettings, WebSocketSettings  # noqa: E402
from alphavel.websocket.upgrade import WebSocketHandler  # noqa: E402
from tests.websocket.clients import Client  # noqa: E402

SECRET = "a secret that is long enough for HS256 and HS512, and then some more"


class GreenletHandler(WebSocketHandler):
    """Serves each WebSocket in a greenlet."""

    parked = False


def settings(**given):
    """Settings of a test's server; fields of options, auth and so on are given by their own names."""
    groups = {"options": OptionsSettings, "auth": AuthSettings}
    values = {}
    for name, cls in groups.items():
        fields = {field.name for field in dataclasses.fields(cls)}
        values[name] = cls(**{key: given.pop(key) for key in list(given) if key in fields})
    return WebSocketSettings(host="127.0.0.1", port=0, **values, **given)


@pytest.fixture(scope="session", autouse=True)
def _run_dir(tmp_path_factory):
    """Commands of the tests must not find servers of the person who runs them."""
    folder = tmp_path_factory.mktemp("run")
    folder.chmod(0o700)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ALPHAVEL_RUN_DIR", str(folder))
        yield


@pytest.fixture(params=["parked", "greenlet"])
def transport(request):
    """Both transports, for what must be the same over both."""
    return request.param


@pytest.fixture
def serve(request):
    """`serve(**settings)` starts a server in this process and returns it, with `.url` and `.connect(…)`."""
    started, clients = [], []
    over = request.getfixturevalue("transport") if "transport" in request.fixturenames else "parked"

    def start(set_up=None, application=None, tls=None, **given):
        server = WebSocketServer(settings(**given))
        if set_up is not None:
            set_up(server)
        handler = WebSocketHandler if over == "parked" else GreenletHandler
        service = Service(server, application or not_found, tls, handler_class=handler)
        service.start()
        started.append(service)
        server.port = service.port
        server.url = f"ws://127.0.0.1:{service.port}/"

        def connect(*arguments, **options):
            clients.append(Client(service.port, *arguments, **options))
            return clients[-1]

        server.connect = connect
        return server

    yield start
    for client in clients:
        client.close()
    for service in started:
        service.server.stop(timeout=0.2)
        service.http.stop(timeout=0.2)
        service._control.stop()
    gc.collect()


def not_found(environ, start_response):
    start_response("404 Not Found", [("Content-Length", "0")])
    return []
