"""The file that processes share: made, trusted or set aside, and valid whenever a process is killed."""

from __future__ import annotations

import json
import os
import signal
import stat
import struct
import subprocess
import sys
import threading
import time

import pytest

from alphavel.circuit_breaker import CircuitBreakerManager, CircuitOpenError, State, StoreError
from alphavel.circuit_breaker.stores.file import Geometry
from tests.support import ROOT, wait_until


@pytest.fixture
def path(tmp_path):
    return tmp_path / "circuits"


@pytest.fixture
def make(path):
    made = []

    def make_(max_workers=4, **thresholds):
        config = {"default": "shared", "stores": {"shared": {"path": str(path), "max_workers": max_workers}}}
        made.append(CircuitBreakerManager({**config, "thresholds": thresholds}))
        return made[-1]

    yield make_
    for manager in made:
        manager.shut_down()


def test_row_is_80_bytes_and_what_nobody_uses_takes_no_memory(make, path):
    assert Geometry(256, 64, 5).row_bytes == 80
    manager = make(max_workers=64)
    manager.call("api", lambda: 1)
    status = os.stat(path)
    assert status.st_size == Geometry(256, 64, 5).file_bytes
    assert status.st_blocks * 512 <= 64 * 1024


def test_file_and_folder_are_this_users_alone(make, path):
    manager = make()
    manager.isolate("api")
    modes = {entry.name: stat.S_IMODE(entry.lstat().st_mode) for entry in path.parent.rglob("*") if not entry.is_symlink()}
    assert modes
    assert not any(mode & 0o077 for mode in modes.values())


def test_what_one_process_decides_holds_for_the_others_at_once(make):
    one, other = make(failure_threshold=2), make(failure_threshold=2)
    other.call("api", lambda: 1)
    for manager in (one, other):
        with pytest.raises(ZeroDivisionError):
            manager.call("api", lambda: 1 / 0)
    for manager in (one, other):
        with pytest.raises(CircuitOpenError):
            manager.call("api", lambda: 1)
    stats = one.get_stats("api")
    assert (stats["state"], stats["total_failures"], stats["total_successes"], stats["rejected"]) == ("open", 2, 1, 2)
    one.reset("api")
    assert other.get_state("api") is State.CLOSED
    assert (one.get_stats("api")["total_failures"], other.get_stats("api")["total_failures"]) == (0, 0)
    other.call("api", lambda: 1)
    assert one.get_stats("api")["total_successes"] == 1


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (lambda data: b"something else entirely", "no file of circuits"),
        (lambda data: b"", "no file of circuits"),
        (lambda data: data[:8] + struct.pack("<I", 99) + data[12:], "it is of version 99"),
        (lambda data: data[:30] + b"\xff" + data[31:], "header is damaged"),
        (lambda data: data[:10000], "bytes in place of"),
    ],
)
def test_file_that_cannot_be_trusted_is_set_aside_with_a_message(make, path, caplog, damage, says):
    make().isolate("api")
    path.write_bytes(damage(path.read_bytes()))
    fresh = make()
    assert says in caplog.text
    assert "all circuits begin anew" in caplog.text
    assert fresh.get_state("api") is State.CLOSED
    assert fresh.call("api", lambda: "fine") == "fine"
    assert len(list(path.parent.glob("circuits.aside-*"))) == 1


def test_file_made_for_other_thresholds_is_set_aside(make, path, caplog):
    make()
    make(failure_threshold=50)
    assert "thresholds up to 5, the configuration now asks for 256, 4 and 50" in caplog.text


def test_file_of_somebody_else_or_a_link_is_refused(make, path, tmp_path):
    path.write_bytes(b"x")
    path.chmod(0o644)
    with pytest.raises(StoreError, match="mode 0600"):
        make()
    path.unlink()
    path.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(StoreError, match="cannot be used"):
        make()


def test_threshold_that_no_row_can_hold_is_refused(make):
    with pytest.raises(StoreError, match="at most 1000"):
        make(failure_threshold=1001)


def test_process_without_a_slot_goes_on_with_circuits_of_its_own(make, caplog):
    first, second = make(max_workers=1), make(max_workers=1)
    assert "All 1 worker slots" in caplog.text
    first.isolate("api")
    assert second.call("api", lambda: "fine") == "fine"
    second.isolate("api")
    assert second.get_state("api") is State.ISOLATED


def test_folder_that_vanishes_leaves_a_process_with_what_it_knows(make, path, caplog):
    manager = make(failure_threshold=1)
    manager.call("api", lambda: 1)
    (folder,) = [entry for entry in path.parent.iterdir() if entry.is_dir()]
    folder.rename(folder.with_name("away"))
    with pytest.raises(ZeroDivisionError):
        manager.call("api", lambda: 1 / 0)
    with pytest.raises(CircuitOpenError):
        manager.call("api", lambda: 1)
    assert "goes on with its own" in caplog.text
    folder.with_name("away").rename(folder)
    wait_until(lambda: manager.get_state("api") is State.CLOSED)


def test_forked_process_counts_in_a_slot_of_its_own(make):
    manager = make()
    manager.call("api", lambda: 1)
    child = os.fork()
    if child == 0:
        manager.call("api", lambda: 1)
        os._exit(manager.get_stats("api")["total_successes"])
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 2
    manager.call("api", lambda: 1)
    assert manager.get_stats("api")["total_successes"] == 3


_BUSY = """
import json, sys, time
from alphavel.circuit_breaker import CircuitBreakerManager, CircuitOpenError
manager = CircuitBreakerManager(json.loads(sys.argv[1]))
print("ready", flush=True)
number = 0
while True:
    number += 1
    try:
        manager.call(f"api-{number % 3}", lambda: 1 // (number % 4 // 2))
    except (ZeroDivisionError, CircuitOpenError):
        pass
    if number % 50 == 0:
        getattr(manager, ["open", "close", "isolate", "reset"][number // 50 % 4])("api-1")
"""


def test_processes_killed_at_any_moment_leave_a_valid_store_and_no_circuit_without_a_way_out(make, path, caplog):
    thresholds = {"failure_threshold": 2, "recovery_timeout": 0.01, "trial_timeout": 0.2, "half_open_requests": 2}
    config = {"default": "shared", "stores": {"shared": {"path": str(path)}}, "thresholds": thresholds}
    config["stores"]["shared"]["max_workers"] = 4
    manager = make(**thresholds)
    for round_ in range(12):
        busy = [_start(config), _start(config)]
        time.sleep(0.02 + 0.013 * round_)
        for process in busy:
            process.send_signal(signal.SIGKILL)
            process.wait()
            process.stdout.close()
    caplog.clear()
    fresh = make(**thresholds)  # opens it, and finds a slot that the dead have left
    assert not caplog.records, caplog.text
    for name in ("api-0", "api-1", "api-2"):
        fresh.close(name) if fresh.get_state(name) is State.ISOLATED else None

        def closes(name=name):
            for user in (fresh, manager):
                try:
                    user.call(name, lambda: 1)
                except CircuitOpenError:
                    pass
            return fresh.get_state(name) is manager.get_state(name) is State.CLOSED

        wait_until(closes, what=f"{name} to close: {fresh.explain(name)}")


def _start(config):
    process = subprocess.Popen(
        [sys.executable, "-c", _BUSY, json.dumps(config)], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n", process.stdout.read()
    return process


def test_trial_of_a_killed_process_gives_its_permit_back_after_the_bound(make, path):
    thresholds = {"failure_threshold": 1, "recovery_timeout": 0, "trial_timeout": 4, "half_open_requests": 1}
    config = {"default": "shared", "stores": {"shared": {"path": str(path), "max_workers": 4}}, "thresholds": thresholds}
    manager = make(**thresholds)
    manager.open("api")
    program = (
        "import json, sys, time; from alphavel.circuit_breaker import CircuitBreakerManager as M\n"
        "M(json.loads(sys.argv[1])).call('api', lambda: (print('ready', flush=True), time.sleep(60)))"
    )
    process = subprocess.Popen([sys.executable, "-c", program, json.dumps(config)], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    process.kill()
    process.wait()
    process.stdout.close()
    with pytest.raises(CircuitOpenError) as refusal:
        manager.call("api", lambda: 1)
    assert refusal.value.state is State.HALF_OPEN
    wait_until(lambda: manager.call("api", lambda: True, fallback=lambda: False))
    assert manager.get_state("api") is State.CLOSED


def test_hint_that_a_killed_process_never_wrote_is_found_out(make):
    one, other = make(failure_threshold=3), make(failure_threshold=3)
    other.call("api", lambda: 1)
    circuit = one.service("api").circuit
    before = circuit._words[circuit._hint]
    one.open("api")
    circuit._words[circuit._hint] = before  # as if it had been killed after the rename
    assert other.call("api", lambda: "still through") == "still through"
    with pytest.raises(ZeroDivisionError):
        other.call("api", lambda: 1 / 0)
    with pytest.raises(CircuitOpenError):
        other.call("api", lambda: 1)


def test_services_past_the_room_of_the_file_are_each_processs_own_and_that_is_said_once(path, caplog):
    config = {"default": "shared", "stores": {"shared": {"path": str(path), "max_services": 2}}}
    manager = CircuitBreakerManager(config)
    for number in range(5):
        manager.isolate(f"api-{number}")
    assert manager.get_state("api-4") is State.ISOLATED
    assert len(manager.store.services()) == 2
    assert caplog.text.count("There is no room") == 1
    manager.shut_down()


def test_threads_register_one_service_once(make):
    manager = make()
    barrier = threading.Barrier(16)
    threads = [threading.Thread(target=lambda: (barrier.wait(), manager.call("api", lambda: 1))) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert manager.store.services() == ["api"]
    assert manager.get_stats("api")["total_successes"] == 16


@pytest.mark.parametrize("name", ["a/b", "😀" * 300, "..", "x\0y", "name"])
def test_names_of_every_kind_are_services(make, name):
    one, other = make(), make()
    one.isolate(name)
    assert other.get_state(name) is State.ISOLATED or name not in other.store.services()
    with pytest.raises(CircuitOpenError):
        other.call(name, lambda: 1)
