"""`alpha circuit-breaker:…` as an operator uses it: against applications that run under gunicorn, and against the stores."""

from __future__ import annotations

import json
import os
import pty
import signal
import urllib.request
from collections import Counter
from urllib.error import HTTPError

import pytest

from tests.circuit_breaker.integrations.servers import free_port
from tests.redis_server import running_redis
from tests.support import Program, python, run, script, wait_until

APP = """
import os
from flask import Flask
from alphavel.circuit_breaker import CircuitBreaker, blueprint

app = Flask(__name__)
app.register_blueprint(blueprint)

def broken():
    raise OSError("away")

@app.get("/call/<service>/<how>")
def call(service, how):
    try:
        CircuitBreaker.call(service, broken if how == "fail" else lambda: 1)
    except OSError:
        pass
    return str(os.getpid())
"""


def make_folder(folder):
    (folder / "config").mkdir()
    (folder / "shop.py").write_text(APP)
    (folder / "run").mkdir(mode=0o700)
    return folder


@pytest.fixture
def folder(tmp_path):
    """An application's folder, with a folder for sockets that no other test has."""
    return make_folder(tmp_path)


@pytest.fixture
def configure(folder):
    def configure(text):
        (folder / "config/circuit_breaker.yaml").write_text(text)

    return configure


def alpha_in(folder):
    def alpha(command, *arguments):
        return run(script("alpha"), f"circuit-breaker:{command}", *arguments, cwd=folder, **environment(folder))

    return alpha


@pytest.fixture
def alpha(folder):
    return alpha_in(folder)


def environment(folder):
    return {"ALPHAVEL_RUN_DIR": str(folder / "run"), "PYTHONPATH": str(folder), "PYTHONWARNINGS": "ignore"}


class Application:
    """The application under gunicorn."""

    def __init__(self, folder, *arguments):
        self.folder, self.alpha = folder, alpha_in(folder)
        self.port = free_port()
        self.program = Program(
            script("gunicorn"), "shop:app", "--bind", f"127.0.0.1:{self.port}", *arguments, cwd=folder, **environment(folder)
        )

    def __enter__(self):
        wait_until(self._answers, 30, "gunicorn")
        return self

    def __exit__(self, *_):
        self.program.stop()

    def _answers(self):
        assert self.program.process.poll() is None, self.program.output
        try:
            return self.get("/health/circuits")
        except OSError:
            return None

    def get(self, path):
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=30) as answer:
            return answer.read().decode()

    def call(self, service, how="succeed"):
        return self.get(f"/call/{service}/{how}")


@pytest.fixture(scope="module")
def running_shop(tmp_path_factory):
    with Application(make_folder(tmp_path_factory.mktemp("shop"))) as application:
        yield application


@pytest.fixture
def shop(running_shop):
    """An application that several tests use, one after the other: its counts begin anew."""
    assert running_shop.alpha("reset", "--all").returncode == 0
    return running_shop


def services(alpha):
    result = alpha("stats", "--json")
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout)["services"]


# The memory store: processes that run


@pytest.mark.parametrize(
    ("workers", "options"),
    [(2, []), (2, ["--preload"]), (1, ["-k", "gevent"]), (2, ["-k", "gevent", "--preload"])],
    ids=str,
)
def test_an_application_under_gunicorn_is_asked_and_told(folder, alpha, workers, options):
    with Application(folder, f"--workers={workers}", *options) as application:
        failed = Counter()

        def all_open():
            try:
                failed[application.call("email", "fail")] += 1
            except HTTPError as refused:  # 503: this one is open
                refused.close()
            return len(failed) == workers and min(failed.values()) >= 5

        wait_until(all_open, 30)
        before = services(alpha)["email"]
        assert (before["last_failure"], set(before["processes"])) == ("OSError: away", set(failed))
        assert states(before) == ["open"]
        # Of the process that workers are forked from nothing is said: nobody has called anything there.
        result = alpha("isolate", "email")
        assert (result.returncode, result.stdout) == (0, "email: isolated, was open\n")
        assert states(services(alpha)["email"]) == ["isolated"]
        assert json.loads(application.get("/health/circuits"))["circuits"]["email"]["state"] == "isolated"
        assert alpha("reset", "--all").returncode == 0
        after = services(alpha)["email"]
        assert (states(after), after["total_failures"]) == (["closed"], 0)
        assert application.call("email") in failed
    result = alpha("stats")
    assert result.returncode == 1
    assert result.stderr.count("\n") == 1
    assert "no running process of this user has any" in result.stderr


def states(stats):
    return sorted({process["state"] for process in stats["processes"].values()})


def test_what_is_shown_of_all_and_of_one(shop):
    shop.call("search")
    for _ in range(5):
        shop.call("email", "fail")
    table = shop.alpha("stats").stdout
    rows = [line.split() for line in table.splitlines()]
    assert rows[0][:4] == ["service", "state", "calls", "failed"]
    assert rows[1][:4] == ["email", "open", "5", "5"]  # what needs attention comes first
    assert rows[2][:4] == ["search", "closed", "1", "0"]
    assert "OSError: away" in table
    assert "\x1b" not in table
    one = shop.alpha("stats", "email").stdout
    assert "The circuit of 'email' is open. It opened" in " ".join(one.split())
    # One that nobody knows
    for command in ("stats", "isolate", "reset"):
        result = shop.alpha(command, "emial")
        assert (result.returncode, result.stdout) == (1, "")
        assert result.stderr == "Error: There is no service 'emial'. There are: email, search.\n"
    assert shop.alpha("isolate", "emial", "--new").stdout == "emial: isolated, was closed\n"
    for command, state in {"open": "open", "disable": "disabled", "close": "closed"}.items():
        assert shop.alpha(command, "search").stdout.startswith(f"search: {state}, was ")


def test_colours_are_for_terminals(shop):
    shop.call("search")
    shown = on_terminal(shop.folder)
    assert "\x1b[32mclosed" in shown
    assert "\x1b[32m" not in on_terminal(shop.folder, NO_COLOR="1")


def on_terminal(folder, **more):
    """Run `alpha circuit-breaker:stats` on a terminal of its own; return what it writes there."""
    pid, terminal = pty.fork()
    if pid == 0:
        os.chdir(folder)
        os.environ.update({**environment(folder), "TERM": "xterm-256color", "COLUMNS": "120", **more})
        os.execv(script("alpha"), ["alpha", "circuit-breaker:stats"])
    shown = b""
    try:
        while piece := os.read(terminal, 65536):
            shown += piece
    except OSError:  # it has ended
        pass
    os.close(terminal)
    assert os.waitpid(pid, 0)[1] == 0, shown
    return shown.decode()


def test_watch_shows_again_until_it_is_interrupted(shop):
    shop.call("search")
    watching = Program(
        script("alpha"), "circuit-breaker:stats", "--watch", "--json", cwd=shop.folder, **environment(shop.folder)
    )
    with watching:
        wait_until(lambda: watching.output.count("\n") >= 2, 30)
        shop.call("search")
        wait_until(lambda: '"total_requests": 2' in watching.output, 30)
        watching.process.send_signal(signal.SIGINT)
        watching.wait()
    assert "Traceback" not in watching.output
    assert all(json.loads(line)["store"] == "memory" for line in watching.output.splitlines() if line.startswith("{"))


def test_a_process_that_does_not_answer_is_named(shop):
    worker = int(shop.call("search"))
    os.kill(worker, signal.SIGSTOP)
    try:
        result = shop.alpha("stats")
    finally:
        os.kill(worker, signal.SIGCONT)
    assert (result.returncode, result.stdout) == (1, "")
    assert result.stderr == f"Error: No answer from process {worker}.\n"


def test_a_process_can_be_told_not_to_answer(folder, alpha, configure):
    configure("control: {enabled: false}\n")
    with Application(folder) as application:
        application.call("search")
        assert list((folder / "run").iterdir()) == []


def test_reset_wants_one_service_or_all(alpha):
    for arguments in ([], ["email", "--all"]):
        result = alpha("reset", *arguments)
        assert result.returncode == 2
        assert "Name one SERVICE, or say --all." in result.stderr


# The shared store and Redis: read and changed directly

USE = """
from alphavel.circuit_breaker import CircuitBreaker
def broken(): raise OSError("away")
for service, function in (("email", broken), ("search", lambda: 1)):
    try: CircuitBreaker.call(service, function)
    except OSError: pass
print("ready", flush=True)
input()
print(CircuitBreaker.get_state("email"))
"""


@pytest.fixture
def redis_server():
    with running_redis() as server:
        yield server


@pytest.mark.parametrize("store", ["shared", "redis"])
def test_a_store_is_read_and_changed_directly(folder, alpha, configure, request, store):
    where = f"shared: {{path: {folder}/circuits}}"
    if store == "redis":
        where = f"redis: {{url: '{request.getfixturevalue('redis_server').url}'}}"
    configure(f"default: {store}\nthresholds: {{failure_threshold: 1}}\nstores: {{{where}}}\n")
    with Program("sh", "-c", f"sleep 3600 | {python()} -c '{USE}'", cwd=folder, **environment(folder)) as other:
        other.wait_for("ready")
        found = services(alpha)
        assert (found["email"]["state"], found["email"]["total_failures"]) == ("open", 1)
        assert (found["search"]["state"], found["search"]["total_successes"]) == ("closed", 1)
        assert alpha("isolate", "email").stdout == "email: isolated, was open\n"
        assert services(alpha)["email"]["state"] == "isolated"
        assert "isolated" in alpha("stats").stdout
        assert alpha("reset", "--all").returncode == 0
        assert services(alpha)["email"]["state"] == "closed"
        assert alpha("open", "nobody").returncode == 1


ODD = """
from alphavel.circuit_breaker import CircuitBreaker
for name in ("db[replica]", "[fe80::1]:8080", "x" * 300, "red\\x1b[31m\\nline"):
    try: CircuitBreaker.call(name, lambda: 1 / 0)
    except ZeroDivisionError: pass
"""


def test_names_are_shown_as_they_are_and_do_nothing_to_the_terminal_or_the_columns(folder, alpha, configure):
    """Brackets had been taken for markup and left out, control characters came through, a long name hid all columns."""
    configure(f"default: shared\nstores: {{shared: {{path: {folder}/circuits}}}}\n")
    assert run(python(), "-c", ODD, cwd=folder, **environment(folder)).returncode == 0
    rows = alpha("stats").stdout.splitlines()
    assert len(rows) == 6
    assert [row.split()[0] for row in rows[1:4]] == ["[fe80::1]:8080", "db[replica]", r"red\x1b[31m\nline"]
    assert [row.split()[1:4] for row in rows[1:5]] == [["closed", "1", "1"]] * 4
    assert "\n[fe80::1]:8080 " in alpha("stats", "[fe80::1]:8080").stdout.replace("service       ", "\n")
    assert alpha("isolate", "red\x1b[31m\nline").stdout == "red\\x1b[31m\\nline: isolated, was closed\n"


def test_a_redis_that_is_away_is_said_in_one_line(alpha, configure):
    port = free_port()
    configure(f"default: redis\nstores: {{redis: {{url: 'redis://:secret@127.0.0.1:{port}/0'}}}}\n")
    for arguments in (["stats"], ["stats", "--json"], ["reset", "--all"], ["isolate", "email", "--new"]):
        result = alpha(*arguments)
        assert (result.returncode, result.stdout) == (1, ""), arguments
        assert result.stderr == f"Error: Redis at 127.0.0.1:{port} cannot be reached.\n"


def test_a_wrong_configuration_is_said_in_one_line(alpha, configure):
    configure("thresholds: {failure_treshold: 3}\n")
    result = alpha("stats")
    assert (result.returncode, result.stdout) == (1, "")
    assert "circuit_breaker.yaml: thresholds.failure_treshold" in result.stderr
    assert result.stderr.count("\n") == 1
