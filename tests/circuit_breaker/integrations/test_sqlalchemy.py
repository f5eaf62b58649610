"""SQLAlchemy against a real PostgreSQL that is stopped and started."""

from __future__ import annotations

import psycopg
import pytest
import sqlalchemy
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError, IntegrityError, ProgrammingError

from alphavel.circuit_breaker import CircuitOpenError, State
from alphavel.circuit_breaker.integrations.sqlalchemy import protect
from tests.circuit_breaker.integrations.servers import BlackHole, Postgres


@pytest.fixture(scope="module")
def installed():
    server = Postgres()
    yield server
    server.remove()


@pytest.fixture
def server(installed):
    installed.start()
    yield installed
    installed.stop()


@pytest.fixture
def make(manager):
    engines = []

    def make(url, **options):
        failure_if = options.pop("failure_if", None)
        engines.append(sqlalchemy.create_engine(url, **options))
        return protect(engines[-1], "api", manager=manager, failure_if=failure_if)

    yield make
    for engine in engines:
        engine.dispose()


@pytest.fixture
def engine(make, server):
    return make(server.url)


def ask(engine, statement="SELECT 1"):
    with engine.begin() as connection:
        return connection.execute(text(statement)).scalar()


def test_statements_go_through(engine, counts):
    assert ask(engine) == 1
    assert ask(engine) == 1
    assert counts() == (3, 0, 0, 0)  # one connection, two statements


def test_what_the_database_thinks_of_a_statement_is_no_failure(engine, counts, manager):
    with engine.begin() as connection:
        connection.execute(text("CREATE TEMP TABLE t (id int PRIMARY KEY)"))
        connection.execute(text("INSERT INTO t VALUES (1)"))
        for _ in range(3):
            with pytest.raises(IntegrityError), connection.begin_nested():
                connection.execute(text("INSERT INTO t VALUES (1)"))
    with pytest.raises(ProgrammingError):
        ask(engine, "SELECT * FROM there_is_no_such_table")
    assert counts()[1] == 0
    assert manager.get_state("api") == State.CLOSED


def test_a_statement_cut_short_by_its_time_limit_counts_where_that_is_asked_for(make, server, counts):
    def is_cancelled(error):
        return isinstance(error, psycopg.errors.QueryCanceled)

    for wanted, failures in ((None, 0), (is_cancelled, 1)):
        engine = make(server.url, failure_if=wanted)
        with pytest.raises(DBAPIError), engine.begin() as connection:
            connection.execute(text("SET LOCAL statement_timeout = 30"))
            connection.execute(text("SELECT pg_sleep(10)"))
        assert counts()[1] == failures


def test_a_database_that_goes_away_and_comes_back(engine, server, counts, clock, manager):
    assert ask(engine) == 1
    server.stop()
    with pytest.raises(DBAPIError) as caught:
        ask(engine)  # over the pooled connection, which is dead
    assert caught.value.connection_invalidated
    with pytest.raises(DBAPIError):
        ask(engine)  # over a new one, which cannot be made
    assert counts() == (2, 2, 0, 0)
    with pytest.raises(CircuitOpenError):
        ask(engine)
    server.start()
    with pytest.raises(CircuitOpenError):
        ask(engine)
    clock.advance(30)
    assert ask(engine) == 1
    assert manager.get_state("api") == State.CLOSED


def test_a_connection_that_is_there_is_not_used_while_the_circuit_is_open(engine, manager, counts):
    with engine.connect() as connection:
        manager.isolate("api")
        with pytest.raises(CircuitOpenError):
            connection.execute(text("SELECT 1"))
        manager.close("api")
        assert connection.execute(text("SELECT 1")).scalar() == 1
    assert counts()[1] == 0


def test_a_connection_lost_in_the_commit_counts(engine, server, counts):
    with pytest.raises(DBAPIError), engine.begin() as connection:
        connection.execute(text("CREATE TEMP TABLE t (id int)"))
        server.stop()
    assert counts()[1] == 1


def test_a_dead_connection_that_a_ping_finds_is_no_failure(make, server, counts):
    engine = make(server.url, pool_pre_ping=True)
    assert ask(engine) == 1
    server.stop()
    server.start()
    assert ask(engine) == 1
    assert counts()[1] == 0


def test_many_rows_in_batches_leave_no_permit_behind(engine, clock, manager):
    table = sqlalchemy.Table(
        "many", sqlalchemy.MetaData(), sqlalchemy.Column("id", sqlalchemy.Integer, primary_key=True), prefixes=["TEMPORARY"]
    )
    manager.open("api")
    clock.advance(30)
    with engine.begin() as connection:
        table.create(connection)
        insert = table.insert().returning(table.c.id).execution_options(insertmanyvalues_page_size=3)
        assert len(connection.execute(insert, [{"id": number} for number in range(10)]).all()) == 10
    assert manager.get_state("api") == State.CLOSED
    assert manager.get_stats("api")["total_requests"] == manager.get_stats("api")["total_successes"]


def test_a_database_that_accepts_and_says_nothing_is_given_up(make, counts):
    with BlackHole() as hole:
        url = f"postgresql+psycopg://test@127.0.0.1:{hole.port}/postgres"
        engine = make(url, connect_args={"connect_timeout": 2})
        with pytest.raises(DBAPIError):
            ask(engine)
    assert counts() == (0, 1, 0, 0)


def test_the_service_is_named_after_host_and_port(server, manager):
    engine = protect(sqlalchemy.create_engine(server.url), manager=manager)
    ask(engine)
    engine.dispose()
    assert manager.names() == [f"127.0.0.1:{server.port}"]


def test_the_connection_is_given_up_where_a_caller_is_cut_short(engine, manager, counts):
    """KeyboardInterrupt, GreenletExit and the like say nothing about the database."""
    with pytest.raises(KeyboardInterrupt), engine.begin() as connection:

        @sqlalchemy.event.listens_for(engine, "do_execute", insert=True)
        def interrupt(*_):
            raise KeyboardInterrupt

        connection.execute(text("SELECT 1"))
    assert counts()[1:3] == (0, 1)
