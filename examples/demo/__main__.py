"""`python -m examples.demo` starts the demo with `alpha websocket:serve` and says where to look at it."""

from __future__ import annotations

import argparse
import errno
import os
import socket
import sys
from pathlib import Path

from alphavel.foundation import console

PORT = 9501


def main() -> None:
    """Find a port, then be `alpha websocket:serve`."""
    parser = argparse.ArgumentParser(prog="python -m examples.demo", description="Start Alphavel's demo.")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on; 0.0.0.0 lets other machines in")
    parser.add_argument("--port", type=int, help=f"port to listen on; without it {PORT}, or the next that is free")
    options = parser.parse_args()
    port = options.port or free_port(options.host)
    if options.port is None and port != PORT:
        print(f"Port {PORT} is in use by something else; taking {port}.\n")
    os.environ["ALPHAVEL_DEMO_WELCOME"] = welcome(options.host, port)
    command = ["--config", str(Path(__file__).parent / "config"), "websocket:serve", "--app", "examples.demo.web:app"]
    sys.argv = ["alpha", *command, "--host", options.host, "--port", str(port)]
    console.main()


def free_port(host: str) -> int:
    """Return the first port from 9501 on that nobody listens on; where there is none near, 9501 and its error."""
    for port in range(PORT, PORT + 50):
        with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as sock:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                sock.bind((host, port))
            except OSError as error:
                if error.errno == errno.EADDRINUSE:
                    continue
            return port
    return PORT


def welcome(host: str, port: int) -> str:
    """What to do now, for people."""
    anywhere = host in ("0.0.0.0", "::", "")
    lines = [f"\nOpen http://{'127.0.0.1' if anywhere else host}:{port}/ in two browsers, or in a window and a private one."]
    if anywhere:
        lines += [f"From other machines: {address}" for address in addresses(port)]
    else:
        lines.append('To let phones and other machines in: make demo ARGS="--host 0.0.0.0"')
    return "\n".join([*lines, "Ctrl+C stops it.\n"])


def addresses(port: int) -> list[str]:
    """Where this machine can be reached from others, as URLs."""
    import psutil

    interfaces = psutil.net_if_addrs().values()
    found = [entry.address for entries in interfaces for entry in entries if entry.family == socket.AF_INET]
    return [f"http://{address}:{port}/" for address in found if not address.startswith("127.")]


if __name__ == "__main__":
    main()
