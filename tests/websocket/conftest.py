"""Everything here runs as the server does: monkey-patched, many greenlets in one thread."""

from gevent import monkey

monkey.patch_all()

import dataclasses  # noqa: E402
import gc  # noqa: E402
import sys  # noqa: E402
import sysconfig  # noqa: E402

import gevent  # noqa: E402
import hypothesis  # noqa: E402
import pytest  # noqa: E402

from alphavel.foundation import container  # noqa: E402
from alphavel.foundation.guarding import guarded  # noqa: E402
from alphavel.websocket import WebSocketServer  # noqa: E402
from alphavel.websocket.logs import limiter  # noqa: E402
from alphavel.websocket.serve import Service  # noqa: E402
from alphavel.websocket.settings import AuthSettings, BroadcastingSettings, OptionsSettings, TlsSettings, WebSocketSettings  # noqa: E402
from alphavel.websocket.transports.writing import open_writer  # noqa: E402
from alphavel.websocket.upgrade import WebSocketHandler  # noqa: E402
from tests.support import ROOT, run  # noqa: E402
from tests.websocket.clients import Client  # noqa: E402
from tests.websocket.receiver import Receiver  # noqa: E402

# A machine that has other things to do is no reason for a test to fail.
hypothesis.settings.register_profile(
    "patient", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow], print_blob=True
)
hypothesis.settings.load_profile("patient")

SECRET = "a secret that is long enough for HS256 and HS512, and then some more"


class GreenletHandler(WebSocketHandler):
    """Serves each WebSocket in a greenlet."""

    parked = False


def settings(**given):
    """Settings of a test's server; fields of options, auth and so on are given by their own names."""
    groups = {"options": OptionsSettings, "auth": AuthSettings, "broadcasting": BroadcastingSettings}
    values = {}
    for name, cls in groups.items():
        fields = {field.name for field in dataclasses.fields(cls)}
        if name not in given:
            values[name] = cls(**{key: given.pop(key) for key in list(given) if key in fields})
    return WebSocketSettings(host="127.0.0.1", port=0, **values, **given)


def pytest_collection_finish():
    # What has been imported stays to the end. Looked through after each test it cost the suite a third of its time.
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session", autouse=True)
def _run_dir(tmp_path_factory):
    """Commands of the tests must not find servers of the person who runs them."""
    folder = tmp_path_factory.mktemp("run")
    folder.chmod(0o700)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ALPHAVEL_RUN_DIR", str(folder))
        yield


@pytest.fixture(scope="session", autouse=True)
def _no_circuit_breaker():
    """Servers of one process would share its circuits. Tests that want one bring it; servers in their own processes have it."""
    guarded("nothing", int)  # registers what is installed
    container().forget("circuit_breaker")


@pytest.fixture(autouse=True)
def _nobody_has_logged_yet():
    """What other tests have logged must suppress no line of this one."""
    limiter.forget()


@pytest.fixture(autouse=True)
def _nothing_is_raised_into_the_loop(monkeypatch):
    """gevent tells the hub of every exception that nobody caught; no test may end with one."""
    uncaught = []
    hub = gevent.get_hub()
    handle_error = hub.handle_error

    def note(context, kind, value, traceback):
        if not issubclass(kind, (gevent.GreenletExit, SystemExit, KeyboardInterrupt)):
            uncaught.append((context, kind, value))
        handle_error(context, kind, value, traceback)

    monkeypatch.setattr(hub, "handle_error", note)
    yield
    assert uncaught == []


@pytest.fixture
def receiver():
    """Takes webhooks."""
    receiver = Receiver()
    yield receiver
    receiver.stop()


@pytest.fixture
def proxies():
    """The ways to Redis. They end last: a server that stops is not to find that they have."""
    made = []
    yield made
    for proxy in made:
        proxy.close()


@pytest.fixture(params=["parked", "parked, reading in Python", "greenlet"])
def transport(request, monkeypatch):
    """All transports, for what must be the same over all."""
    if "Python" in request.param:
        monkeypatch.setattr("alphavel.websocket.transports.reading._native", None)
    return request.param


@pytest.fixture(params=["io_uring", "send", "python"])
def writer(request, monkeypatch):
    """All writers, for what must be the same with each of them; audiences of one are written to as large ones are."""
    if request.param == "io_uring":
        skip_without_io_uring()
    monkeypatch.setattr("alphavel.websocket.transports.batch.FEW", 1)
    return request.param


def skip_without_io_uring():
    """Skip where the kernel has no io_uring for us; without the C extension fail: `make test` has seen to a compiler."""
    offered = open_writer("auto")
    offered.close()
    if offered.name == "send":
        pytest.skip(offered.note)


def exercise_under_sanitizers(name, folder):
    """Build an extension with AddressSanitizer and UBSan in a folder, and exercise it for three seconds."""
    built = folder / f"_{name}.abi3.so"
    headers = f"-I{sysconfig.get_paths()['include']}"
    options = ["-g", "-O1", "-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-fPIC", "-shared"]
    compiled = run("cc", *options, headers, "-o", built, ROOT / f"alphavel/websocket/transports/_{name}.c")
    assert compiled.returncode == 0, compiled.stderr
    libraries = [run("cc", f"-print-file-name={library}").stdout.strip() for library in ("libasan.so", "libubsan.so")]
    done = run(
        *[sys.executable, "-m", f"tests.websocket.exercise_{name}", built, "3"],
        LD_PRELOAD=" ".join(libraries),
        ASAN_OPTIONS="detect_leaks=0",  # CPython keeps things until the end; the exercise counts references
        PYTHONMALLOC="malloc",
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "rounds" in done.stdout


@pytest.fixture
def serve(request):
    """`serve(**settings)` starts a server in this process and returns it, with `.url` and `.connect(…)`."""
    started, clients = [], []
    over = request.getfixturevalue("transport") if "transport" in request.fixturenames else "parked"

    preset = {"writer": request.getfixturevalue("writer")} if "writer" in request.fixturenames else {}

    def start(set_up=None, application=None, tls=None, **given):
        given = preset | given
        server = WebSocketServer(settings(**given, tls=TlsSettings(*tls) if tls else TlsSettings()))
        if set_up is not None:
            set_up(server)
        handler = GreenletHandler if over == "greenlet" else WebSocketHandler
        service = Service(server, application or not_found, handler_class=handler)
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
