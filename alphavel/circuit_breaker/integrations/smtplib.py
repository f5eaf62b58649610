"""
`smtplib`: clients.

    with CircuitBreakerSMTP("mail.example.com", 587, timeout=10, service="email") as smtp:
        smtp.starttls()
        smtp.send_message(message)
"""

from __future__ import annotations

import smtplib
from typing import TYPE_CHECKING, Any

from alphavel.circuit_breaker.integrations.protection import Protection, failures

if TYPE_CHECKING:
    from alphavel.circuit_breaker.manager import CircuitBreakerManager


class _Protected(smtplib.SMTP):
    """
    Connecting is one call of the service, handing over a message another.

    Failures: connections that cannot be made or break, time-outs, and answers that ask to try again later (4xx) about the
    connection or the message. Refused for good (5xx), wrong passwords and single recipients that are refused are not: the
    server works.
    """

    def __init__(
        self,
        host: str = "",
        *args: Any,
        service: str | None = None,
        manager: CircuitBreakerManager | None = None,
        **options: Any,
    ) -> None:
        """
        Args:
            host, args, options: Those of `smtplib`'s class. Give a `timeout`: without one a hanging server holds its callers.
            service: Name of the service; None: the host.
            manager: Whose breakers; None: those of this process, as configured.

        Raises:
            CircuitOpenError: The circuit refuses; nothing was sent.
        """
        self._protection = Protection(service, failures(OSError, but=_is_for_good), manager)
        super().__init__(host, *args, **options)

    def connect(self, host: str = "localhost", port: int = 0, *args: Any, **options: Any) -> tuple[int, bytes]:
        """Connect; see `smtplib.SMTP.connect`."""
        self._address = f"//{host}:{port}" if port else f"//{host}"

        def connect() -> tuple[int, bytes]:
            code, reply = super(_Protected, self).connect(host, port, *args, **options)
            if code != 220:  # smtplib's own constructor looks at the code only after this method has returned
                self.close()
                raise smtplib.SMTPConnectError(code, reply)
            return code, reply

        answer: tuple[int, bytes] = self._protection.call(self._address, connect)
        return answer

    def sendmail(self, *args: Any, **options: Any) -> dict[str, tuple[int, bytes]]:
        """Hand over a message; see `smtplib.SMTP.sendmail`. `send_message` comes here too."""
        refused: dict[str, tuple[int, bytes]] = self._protection.call(
            self._address, lambda: super(_Protected, self).sendmail(*args, **options)
        )
        return refused


class CircuitBreakerSMTP(_Protected):
    """`smtplib.SMTP` behind a circuit breaker."""


class CircuitBreakerSMTPSSL(_Protected, smtplib.SMTP_SSL):
    """`smtplib.SMTP_SSL` behind a circuit breaker."""


def _is_for_good(error: BaseException) -> bool:
    """Whether an exception says that the server works and does not want this message, recipient or user."""
    if isinstance(error, smtplib.SMTPConnectError):
        return False
    if isinstance(error, smtplib.SMTPResponseException):
        return error.smtp_code >= 500
    if isinstance(error, smtplib.SMTPRecipientsRefused):
        # 450 is about one mailbox; 421 is the server on its way out.
        return all(code != 421 for code, _ in error.recipients.values())
    return isinstance(error, (smtplib.SMTPNotSupportedError, UnicodeError))
