"""smtplib against a real SMTP server with moods."""

from __future__ import annotations

import smtplib
from email.message import EmailMessage

import pytest

from alphavel.circuit_breaker import CircuitOpenError, State
from alphavel.circuit_breaker.integrations.smtplib import CircuitBreakerSMTP, CircuitBreakerSMTPSSL
from tests.circuit_breaker.integrations.servers import BlackHole, SmtpServer, free_port, running


def message():
    mail = EmailMessage()
    mail["From"], mail["To"], mail["Subject"] = "shop@example.com", "customer@example.com", "Your order"
    mail.set_content("Thank you.")
    return mail


@pytest.fixture
def send(manager, smtp_server):
    def send(server=smtp_server):
        with CircuitBreakerSMTP("127.0.0.1", server.port, timeout=5, service="api", manager=manager) as smtp:
            return smtp.send_message(message())

    return send


def test_a_message_is_sent(send, smtp_server, counts):
    assert send() == {}
    assert smtp_server.received == 1
    assert counts() == (2, 0, 0, 0)  # the connection, the message


@pytest.mark.parametrize(
    ("mood", "error"),
    [
        ("550 we do not like the text", smtplib.SMTPDataError),
        ("recipient 550 no such user", smtplib.SMTPRecipientsRefused),
        ("recipient 450 mailbox busy", smtplib.SMTPRecipientsRefused),
    ],
)
def test_what_is_wrong_with_one_message_is_not_counted(send, smtp_server, counts, mood, error):
    smtp_server.mood = mood
    for _ in range(3):
        with pytest.raises(error):
            send()
    assert counts() == (3, 0, 3, 0)


@pytest.mark.parametrize(
    ("mood", "error"),
    [
        ("451 try again later", smtplib.SMTPDataError),
        ("452 out of space", smtplib.SMTPDataError),
        ("recipient 421 closing", smtplib.SMTPRecipientsRefused),
        ("drop", smtplib.SMTPServerDisconnected),
    ],
)
def test_a_server_in_trouble_is_counted_and_left_alone(send, smtp_server, counts, mood, error):
    smtp_server.mood = mood
    for _ in range(2):
        with pytest.raises(error):
            send()
    assert counts()[1] == 2
    smtp_server.mood = "fine"
    with pytest.raises(CircuitOpenError):
        send()
    assert smtp_server.received == 0


def test_a_server_that_is_away_and_comes_back(send, counts, clock, manager):
    server = SmtpServer()
    for _ in range(2):
        with pytest.raises(ConnectionRefusedError):
            send(server)
    with running(server):
        with pytest.raises(CircuitOpenError):
            send(server)
        clock.advance(30)
        send(server)
    assert server.received == 1
    assert manager.get_state("api") == State.CLOSED


def test_a_server_that_says_nothing_is_given_up(manager, counts):
    with BlackHole() as hole, pytest.raises((TimeoutError, smtplib.SMTPServerDisconnected)):
        CircuitBreakerSMTP("127.0.0.1", hole.port, timeout=0.2, service="api", manager=manager)
    assert counts() == (0, 1, 0, 0)


def test_the_service_is_named_after_the_host_and_tls_is_protected_too(manager):
    port = free_port()
    with pytest.raises(ConnectionRefusedError):
        CircuitBreakerSMTPSSL("127.0.0.1", port, timeout=5, manager=manager)
    assert manager.names() == [f"127.0.0.1:{port}"]
    assert manager.get_stats(f"127.0.0.1:{port}")["total_failures"] == 1
