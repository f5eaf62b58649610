"""
Messages that must arrive, through a mail server that is sometimes away: an outbox.

While the circuit is open, messages wait and nobody waits for a time-out. A message that the server refuses for good is not
tried again, and says nothing about the server.
"""

from __future__ import annotations

import smtplib
import time
from collections import deque
from email.message import EmailMessage

from alphavel.circuit_breaker import CircuitBreakerManager, CircuitOpenError
from alphavel.circuit_breaker.integrations.smtplib import CircuitBreakerSMTP
from examples.circuit_breaker.servers import Smtp

manager = CircuitBreakerManager(
    {"services": {"email": {"failure_threshold": 2, "recovery_timeout": 0.5, "half_open_requests": 1}}}
)


class Outbox:
    """
    Attributes:
        waiting: Messages to be delivered. In an application of yours, a table.
        refused: Messages that the server wants never to see again.
    """

    def __init__(self, host: str, port: int) -> None:
        self._at = (host, port)
        self.waiting: deque[EmailMessage] = deque()
        self.refused: list[EmailMessage] = []

    def send(self, subject: str, to: str) -> None:
        """Take a message; it is delivered now or later."""
        message = EmailMessage()
        message["From"], message["To"], message["Subject"] = "shop@example.com", to, subject
        message.set_content("Thank you for your order.")
        self.waiting.append(message)
        self.deliver()

    def deliver(self) -> str:
        """Deliver what waits, as far as that goes; say how far. To be called from time to time."""
        while self.waiting:
            message = self.waiting[0]
            try:
                with CircuitBreakerSMTP(*self._at, timeout=5, service="email", manager=manager) as smtp:
                    smtp.send_message(message)
            except CircuitOpenError as error:
                return f"{len(self.waiting)} waiting; next try in {error.retry_after or 1:.1f} s"
            except (smtplib.SMTPRecipientsRefused, smtplib.SMTPDataError):
                self.refused.append(message)
            except OSError as error:  # smtplib's own errors are such, too
                return f"{len(self.waiting)} waiting; {type(error).__name__}"
            self.waiting.popleft()
        return "all delivered"


def main() -> None:
    """Stop the mail server in the middle of the day."""
    with Smtp() as server:
        outbox = Outbox("127.0.0.1", server.port)
        outbox.send("Your order 1", "customer@example.com")
        print("delivered:", server.subjects)
        server.stop()
        for number in (2, 3, 4):
            outbox.send(f"Your order {number}", "customer@example.com")
            print("the server is away:", outbox.deliver())
        server.start()
        time.sleep(0.5)
        print("the server is back:", outbox.deliver())
        print("delivered:", server.subjects)


if __name__ == "__main__":
    main()
