"""What millions need is computed from the figures of a run, and from nothing else."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from benchmarks import capacity
from benchmarks.capacity import Machine, Measured, Workload

FIGURES = Measured(
    delivery_us=2.0, handshake_us=200.0, connection_bytes=1000, known_bytes=500, publish_us=1.0, copy_us=0.1
)  # fmt: skip
RESULTS = {
    "machine": {"date": "2026-01-01", "processor": "a processor", "python": "3.12"},
    "tables": [
        {"title": "Fan-out to 1,000 subscribers", "data": {"1 worker": {"server_us": 2.0}}},
        {"title": "10,000 clients connect at once to 2 workers", "data": {"handshake_us": 200.0}},
        {"title": "Memory of what workers know of each other", "data": {"each": 1000, "further": 500}},
        {"title": "Redis: what a published message costs it", "data": {"publish_us": 1.0, "copy_us": 0.1}},
    ],
}


def needs(count, **given):
    return capacity._needs(FIGURES, Workload(**given), Machine(), count)


def test_the_figures_are_those_of_the_tables():
    assert Measured.of(RESULTS) == FIGURES
    # Half a core for 100,000 messages a second, and 2,600 bytes of which 1,000 are the connection's, in 4 other workers.
    held = {"server_share": 0.5, "connections": 100_000, "memory": {"each": 2600}, "counts": [20_000] * 5}
    assert Measured.of(RESULTS, held) == replace(FIGURES, delivery_us=5.0, known_bytes=400.0)


def test_a_million_connections_need_what_a_multiplication_says():
    need = needs(1_000_000)
    # 1,000,000 messages of 2 µs are 2 cores' time, and 60 % of a core are to be used: 3.33 of them.
    assert need["cores for messages"] == "3.33"
    assert need["cores for all coming back"] == "1.11"  # 1,000,000 of 200 µs in 300 s
    assert need["network, out"] == "1.06 Gbit/s"  # 132 bytes each
    assert need["memory of the connections"] == "0.93 GiB"
    assert need["memory in each machine for what its workers know of all users"] == "7.45 GiB"  # 500 bytes in each of 16
    assert (need["machines"], need["Redis shards"]) == ("1", "1")


def test_users_that_no_machine_could_know_of_are_spread_over_fleets():
    need = needs(10_000_000)
    assert need["memory in each machine for what its workers know of all users"] == "74.5 GiB"
    assert need["fleets, each with users of its own, for that to fit into half of the memory"] == "4"  # of 19.2 GiB
    assert need["machines"] == "4"  # 2.78 are enough for the messages


def test_fleets_are_of_whole_machines():
    need = needs(10_000_000, a_second=2.0)  # 4.86 machines' processors: five fleets of one, not four of one and a quarter
    assert need["machines"] == "5"
    assert need["fleets, each with users of its own, for that to fit into half of the memory"] == "5"
    need = needs(10_000_000, a_second=4.0)  # 9.03
    assert need["machines"] == "10"
    assert need["fleets, each with users of its own, for that to fit into half of the memory"] == "5"


@pytest.mark.parametrize(
    ("given", "reason"),
    [({"a_second": 20.0}, "processors"), ({"a_second": 0.001, "back_within_s": 3600.0}, "memory")],
)
def test_the_machines_are_as_many_as_the_scarcest_thing_asks_for(given, reason):
    assert needs(10_000_000, **given)["which are so many because of"] == reason


def test_the_first_limits_are_what_more_machines_do_not_move():
    known, redis = capacity._first_limits(FIGURES, Workload(), Machine())
    assert round(known) == round(0.6 * 64 * 2**30 / 2 / (500 * 16))
    assert round(redis) == round(0.6e6 / (1.0 + 1000 * 0.1) * 1000)


def test_the_page_is_written_from_the_newest_results(tmp_path, monkeypatch):
    page = tmp_path / "scaling.md"
    page.write_text("before\n<!-- scaling: written by the run -->\n<!-- end of scaling -->\nafter\n")
    monkeypatch.setattr(capacity, "PAGE", page)
    monkeypatch.setattr(capacity, "RESULTS", tmp_path)
    assert "no results" in capacity.write_page()
    (tmp_path / "scale-2026-01-01-0000.json").write_text(
        json.dumps({**RESULTS, "machine": {**RESULTS["machine"], "date": "old"}})
    )
    (tmp_path / "scale-2026-01-02-0000.json").write_text(json.dumps(RESULTS))
    capacity.write_page()
    text = page.read_text()
    assert text.startswith("before\n")
    assert text.endswith("after\n")
    assert "its figures of 2026-01-01" in text
    assert "| machines | 1 |" in text
