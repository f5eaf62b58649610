"""requests, httpx (sync and async) and urllib3 against a real server that fails: one set of tests for all four."""

from __future__ import annotations

import asyncio
import warnings

import httpx
import pytest
import requests
import urllib3

from alphavel.circuit_breaker import CircuitBreakerManager, CircuitOpenError, State
from alphavel.circuit_breaker.integrations.httpx import AsyncCircuitBreakerTransport, CircuitBreakerTransport
from alphavel.circuit_breaker.integrations.requests import CircuitBreakerAdapter
from alphavel.circuit_breaker.integrations.urllib3 import CircuitBreakerPoolManager
from tests.circuit_breaker.integrations.servers import HttpServer, running

TIMEOUT_S = 30.0
SHORT_S = 0.4
"""For paths that never answer."""


def timeout_of(url):
    return SHORT_S if url.endswith(("/hang", "/slow-body")) else TIMEOUT_S


class Requests:
    errors = (requests.RequestException,)

    def __init__(self, service, **options):
        self.session = requests.Session()
        for scheme in ("http://", "https://"):
            self.session.mount(scheme, CircuitBreakerAdapter(service, **options))

    def get(self, url):
        response = self.session.get(url, timeout=timeout_of(url))
        return response.status_code, response.content

    def answer(self):
        response = requests.Response()
        response.status_code, response._content = 203, b"instead"
        return response

    def close(self):
        self.session.close()


class Httpx:
    errors = (httpx.HTTPError,)

    def __init__(self, service, **options):
        self.client = httpx.Client(
            transport=CircuitBreakerTransport(service, **options), follow_redirects=True, trust_env=False
        )

    def get(self, url):
        response = self.client.get(url, timeout=timeout_of(url))
        return response.status_code, response.content

    def answer(self):
        return httpx.Response(203, content=b"instead")

    def close(self):
        self.client.close()


class AsyncHttpx(Httpx):
    def __init__(self, service, **options):
        transport = AsyncCircuitBreakerTransport(service, **options)
        self.client = httpx.AsyncClient(transport=transport, follow_redirects=True, trust_env=False)
        self.loop = asyncio.new_event_loop()

    def get(self, url):
        response = self.loop.run_until_complete(self.client.get(url, timeout=timeout_of(url)))
        return response.status_code, response.content

    def close(self):
        self.loop.run_until_complete(self.client.aclose())
        self.loop.close()


class Urllib3:
    errors = (urllib3.exceptions.HTTPError,)

    def __init__(self, service, **options):
        self.http = CircuitBreakerPoolManager(
            service, retries=urllib3.Retry(None, connect=0, read=0, other=0, redirect=3), **options
        )

    def get(self, url):
        response = self.http.request("GET", url, timeout=timeout_of(url))
        return response.status, response.data

    def answer(self):
        return urllib3.HTTPResponse(b"instead", status=203)

    def close(self):
        self.http.clear()


CLIENTS = [Requests, Httpx, AsyncHttpx, Urllib3]


@pytest.fixture(params=CLIENTS, ids=lambda kind: kind.__name__)
def kind(request):
    return request.param


@pytest.fixture
def make(kind, manager):
    made = []

    def make(service="api", **options):
        made.append(kind(service, manager=manager, **options))
        return made[-1]

    yield make
    for client in made:
        client.close()


def fail(client, url):
    """Get a URL; an error of the client's library is fine."""
    try:
        return client.get(url)
    except client.errors:
        return None


def test_an_answer_is_the_answer_of_the_server(make, http_server, counts):
    assert make().get(f"{http_server.url}/200") == (200, b"hello")
    assert counts() == (1, 0, 0, 0)


@pytest.mark.parametrize("path", ["/404", "/400", "/401", "/429"])
def test_the_callers_own_mistakes_are_not_counted(make, http_server, counts, path):
    client = make()
    for _ in range(3):
        assert client.get(http_server.url + path)[0] == int(path[1:])
    assert counts() == (3, 0, 0, 0)


@pytest.mark.parametrize("path", ["/500", "/503", "/429/retry"])
def test_answers_that_mean_trouble_are_returned_and_counted(make, http_server, counts, manager, path):
    client = make()
    for _ in range(2):
        assert client.get(http_server.url + path) == (int(path.split("/")[1]), b"hello")
    assert counts() == (0, 2, 0, 0)
    assert manager.get_state("api") == State.OPEN
    with pytest.raises(CircuitOpenError) as caught:
        client.get(f"{http_server.url}/200")
    assert caught.value.retry_after == 30
    assert http_server.total == 2


@pytest.mark.parametrize("path", ["/hang", "/reset", "/half", "/slow-body"])
def test_what_goes_wrong_on_the_wire_is_counted_and_raised_as_ever(make, kind, http_server, counts, path):
    client = make()
    for _ in range(2):
        with pytest.raises(kind.errors):
            client.get(http_server.url + path)
    assert counts() == (0, 2, 0, 0)
    with pytest.raises(CircuitOpenError):
        client.get(http_server.url + path)
    assert counts() == (0, 2, 0, 1)
    assert http_server.total <= 2


def test_a_server_that_is_away_is_asked_no_more_and_used_again_once_it_is_back(make, kind, counts, clock, manager):
    server = HttpServer()
    client = make()
    for _ in range(2):
        with pytest.raises(kind.errors):
            client.get(f"{server.url}/200")
    with running(server):
        with pytest.raises(CircuitOpenError):
            client.get(f"{server.url}/200")
        assert server.total == 0
        clock.advance(30)
        assert client.get(f"{server.url}/200") == (200, b"hello")
    assert manager.get_state("api") == State.CLOSED
    assert counts() == (1, 2, 0, 1)


def test_without_a_name_each_host_has_a_breaker_of_its_own(make, http_server, manager):
    with running(HttpServer()) as other:
        client = make(None)
        for _ in range(2):
            client.get(f"{http_server.url}/500")
        with pytest.raises(CircuitOpenError):
            client.get(f"{http_server.url}/200")
        assert client.get(f"{other.url}/200")[0] == 200
    assert sorted(manager.names()) == sorted([f"127.0.0.1:{http_server.port}", f"127.0.0.1:{other.port}"])


def test_a_function_may_name_the_service(make, http_server, manager):
    make(lambda url: "seven" if str(http_server.port) in url else "other").get(f"{http_server.url}/200")
    assert manager.names() == ["seven"]


def test_each_redirect_is_a_call(make, http_server, counts):
    assert make().get(f"{http_server.url}/moved") == (200, b"hello")
    assert http_server.hits == {"/moved": 1, "/200": 1}
    assert counts() == (2, 0, 0, 0)


def test_a_fallback_answers_where_the_circuit_is_open(make, kind, http_server):
    errors = []

    def instead(error):
        errors.append(error)
        return client.answer()

    client = make(fallback=instead)
    for _ in range(2):
        assert client.get(f"{http_server.url}/500")[0] == 500
    assert client.get(f"{http_server.url}/200") == (203, b"instead")
    assert isinstance(errors[0], CircuitOpenError)


def test_what_counts_as_a_failure_can_be_said(make, http_server, counts):
    client = make(failure_if=lambda response: getattr(response, "status_code", getattr(response, "status", 0)) == 404)
    client.get(f"{http_server.url}/404")
    client.get(f"{http_server.url}/500")
    assert counts() == (1, 1, 0, 0)


def test_a_judge_that_raises_counts_a_failure_and_hurts_no_request(make, http_server, counts):
    client = make(failure_if=lambda response: response.no_such_attribute)
    assert client.get(f"{http_server.url}/200") == (200, b"hello")
    assert counts() == (0, 1, 0, 0)


def test_a_fallback_does_not_run_for_a_stream_that_breaks_off_as_it_could_not_answer_any_more(http_server, clock):
    manager = CircuitBreakerManager({"thresholds": {"fallback_on": "failure"}}, clock=clock)
    ran = []
    transport = CircuitBreakerTransport("api", manager=manager, fallback=ran.append)
    with (
        httpx.Client(transport=transport, trust_env=False) as client,
        pytest.raises(httpx.HTTPError),
        client.stream("GET", f"{http_server.url}/half") as response,
    ):
        response.read()
    assert (ran, manager.get_stats("api")["total_failures"]) == ([], 1)


def test_an_address_that_cannot_be_is_nobodys_failure(make, kind, counts, manager):
    client = make()
    for url in ("http://exa mple:80:90/", "http://:0x/"):
        with pytest.raises(Exception) as caught, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            client.get(url)
        assert not isinstance(caught.value, CircuitOpenError)
    assert manager.get_stats("api")["total_failures"] == 0


@pytest.mark.parametrize("service", ["", 7, b"api"])
def test_a_service_that_is_no_name_is_refused(kind, manager, service):
    with pytest.raises(TypeError, match="service takes a name"):
        kind(service, manager=manager)


# What is particular to one of them


def test_requests_repeats_are_one_call(manager, http_server, counts):
    session = requests.Session()
    session.mount(
        "http://", CircuitBreakerAdapter("api", manager=manager, max_retries=urllib3.Retry(3, status_forcelist=[500]))
    )
    with pytest.raises(requests.exceptions.RetryError):
        session.get(f"{http_server.url}/500")
    assert http_server.total == 4
    assert counts() == (0, 1, 0, 0)


def test_urllib3_repeats_are_one_call(manager, http_server, counts):
    http = CircuitBreakerPoolManager("api", manager=manager, retries=urllib3.Retry(3))
    with pytest.raises(urllib3.exceptions.MaxRetryError):
        http.request("GET", f"{http_server.url}/reset")
    assert http_server.total == 4
    assert counts() == (0, 1, 0, 0)


def test_a_pool_that_urllib3_hands_out_is_protected_too(manager, http_server, counts):
    pool = CircuitBreakerPoolManager("api", manager=manager).connection_from_url(http_server.url)
    assert pool.request("GET", "/500").status == 500
    assert counts() == (0, 1, 0, 0)


def test_a_body_that_requests_streams_is_the_callers(manager, http_server, counts):
    session = requests.Session()
    session.mount("http://", CircuitBreakerAdapter("api", manager=manager))
    with session.get(f"{http_server.url}/half", stream=True) as response, pytest.raises(requests.RequestException):
        _ = response.content
    assert counts() == (1, 0, 0, 0)


def test_a_body_that_httpx_streams_is_part_of_the_call(manager, http_server, counts):
    with httpx.Client(transport=CircuitBreakerTransport("api", manager=manager), trust_env=False) as client:
        with client.stream("GET", f"{http_server.url}/half") as response:
            assert counts() == (0, 0, 0, 0)
            with pytest.raises(httpx.RemoteProtocolError):
                response.read()
        assert counts() == (0, 1, 0, 0)
        with client.stream("GET", f"{http_server.url}/200"):
            pass  # not read: what came was fine
        assert counts() == (1, 1, 0, 0)


def test_a_trial_that_is_cancelled_gives_its_permit_back(manager, http_server, clock):
    """Without that the circuit would stay half-open until the trial's time is over."""

    async def scenario():
        async with httpx.AsyncClient(transport=AsyncCircuitBreakerTransport("api", manager=manager), trust_env=False) as client:
            for _ in range(2):
                await client.get(f"{http_server.url}/500")
            clock.advance(30)
            task = asyncio.ensure_future(client.get(f"{http_server.url}/hang", timeout=None))
            while not http_server.hits.get("/hang"):
                await asyncio.sleep(0.01)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert manager.get_state("api") == State.HALF_OPEN
            assert (await client.get(f"{http_server.url}/200")).status_code == 200

    asyncio.run(scenario())
    assert manager.get_state("api") == State.CLOSED
