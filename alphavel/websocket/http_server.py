"""pywsgi's server, and what comes before a connection's first request: a proxy's header, the TLS handshake."""

from __future__ import annotations

import errno
import ssl
import time
from typing import TYPE_CHECKING, Any, ClassVar

import gevent
from gevent.pywsgi import WSGIServer

from alphavel.foundation import container
from alphavel.websocket.files import room_for_handshakes
from alphavel.websocket.logs import get_logger
from alphavel.websocket.proxy_protocol import ProxyProtocolError, read_header

if TYPE_CHECKING:
    from alphavel.websocket.server import WebSocketServer

logger = get_logger("alphavel.http")


_NO_FILES = (errno.EMFILE, errno.ENFILE)
_PAUSE_S = 0.005
_NO_FILE_S = 0.1
_A_MOMENT_S = 0.001
_AT_ONCE = 16  # are accepted in place of others, who have to close their files first
_PATIENCE = 0.1  # of handshake_timeout: so long newcomers wait for those before them, until the oldest of these has to go


def most_pending(server: WebSocketServer) -> int:
    """How many may be about to shake hands: what the settings say, where as many files may be opened."""
    return room_for_handshakes(server.settings.options.max_pending_handshakes, server.reactor.sockets)


class HttpServer(WSGIServer):  # type: ignore[misc]
    """
    pywsgi's server, also as gunicorn's worker makes it.

    Where thousands come at once, as after a restart, it accepts as many as it can serve (`options.max_pending_handshakes`); the
    others wait in the kernel's backlog. Those who send nothing cannot keep them there for long.
    """

    # Handlers of all servers of the process whose requests' headers have not come yet, and since when; oldest first.
    waiting_for_headers: ClassVar[dict[Any, float]] = {}
    shares_listener = False  # with other workers, who may accept as well

    def __init__(self, *arguments: Any, **options: Any) -> None:
        self._shaking_hands: dict[Any, float] = {}  # greenlets whose peers have yet to finish the TLS handshake, and since when
        self._accepted = 0  # connections whose greenlets have not begun yet
        self._served = 0  # connections that speak HTTP, whatever they wait for
        self._has_waited = False
        super().__init__(*arguments, **options)

    def websocket_server(self) -> WebSocketServer:
        """The server that WebSockets go to."""
        server: WebSocketServer = container().make("websocket")
        return server

    def use_certificate(self, context: ssl.SSLContext) -> None:
        """Meet those who connect from now on with another certificate. Not for a server that began without TLS."""
        self.wrap_socket = context.wrap_socket

    def do_read(self) -> Any:
        """Accept, unless too many are about to shake hands; see gevent."""
        if self._is_crowded():
            self.pause(_PAUSE_S)
            return None
        if self._leaves_it_to_others():
            self.pause(_A_MOMENT_S)
            return None
        try:
            accepted = super().do_read()
        except OSError as error:
            if error.errno not in _NO_FILES:
                raise
            logger.error("Nobody can be accepted until a file is closed: %s", error.strerror)
            self.pause(_NO_FILE_S)
            return None
        if accepted is not None:
            self._accepted += 1
        return accepted

    def _leaves_it_to_others(self) -> bool:
        # The kernel wakes all workers and the first one takes it, as often as not the same: that one would end with most of
        # the connections. So the one that has more of them waits a moment, and then takes what nobody took.
        self._has_waited = self.shares_listener and not self._has_waited and self.websocket_server().has_more_than_its_share
        return self._has_waited

    def pause(self, seconds: float) -> None:
        """Accept nobody for a moment."""
        self.stop_accepting()
        self._timer = self.loop.timer(seconds)  # gevent's own, so that who stops accepting meanwhile stops it, too
        self._timer.start(self._start_accepting_if_started)

    def _is_crowded(self) -> bool:
        server = self.websocket_server()
        pending = self._shaking_hands if self.ssl_enabled else self.waiting_for_headers
        if len(pending) + self._accepted < most_pending(server):
            return False
        if not pending or self._accepted >= _AT_ONCE:
            return True
        return time.monotonic() - next(iter(pending.values())) < _PATIENCE * server.settings.options.handshake_timeout

    def handle(self, sock: Any, address: Any) -> None:
        """Serve one connection; see gevent."""
        if not isinstance(sock, ssl.SSLSocket):
            self._accepted -= 1
            try:
                address = self._client_address(sock, address)
            except (OSError, ProxyProtocolError):
                return
        self._served += 1
        try:
            super().handle(sock, address)
        finally:
            self._served -= 1

    def finish(self, timeout: float) -> bool:
        """
        Wait for the requests that are being answered; to be called when none is accepted any more, and idle ones are ended.

        gevent waits for those of a pool only, and there is none here.

        Args:
            timeout: Seconds it may take.

        Returns:
            Whether all have been answered.
        """
        deadline = time.monotonic() + timeout
        while self._served + self._accepted and time.monotonic() < deadline:
            gevent.sleep(_PAUSE_S)
        return not self._served

    def wrap_socket_and_handle(self, sock: Any, address: Any) -> None:
        """Serve one TLS connection; see gevent. A client that does not finish the TLS handshake is let go in silence."""
        server, pending = self.websocket_server(), self._shaking_hands
        if len(pending) >= most_pending(server):
            oldest = next(iter(pending))
            del pending[oldest]
            gevent.kill(oldest, TimeoutError)
        self._accepted -= 1
        pending[gevent.getcurrent()] = time.monotonic()
        try:
            address = self._client_address(sock, address)
            with gevent.Timeout(server.settings.options.handshake_timeout, TimeoutError):
                tls_sock = self.wrap_socket(sock, **self.ssl_args)
        except (OSError, ProxyProtocolError):
            return
        finally:
            pending.pop(gevent.getcurrent(), None)
        try:
            self.handle(tls_sock, address)
        finally:
            tls_sock.close()

    def _client_address(self, sock: Any, address: Any) -> Any:
        """Return the client's address: the peer's, or what the peer says where it is a proxy that speaks first."""
        server = self.websocket_server()
        peer = address[0] if isinstance(address, tuple) else ""
        if not server.proxies.speak_first or not server.proxies.trusts(peer):
            return address
        try:
            with gevent.Timeout(server.settings.options.handshake_timeout, TimeoutError):
                return read_header(sock) or address
        except ProxyProtocolError as error:
            logger.warning("A proxy's connection is closed, from %s: %s", peer or "a Unix socket", error)
            raise
