"""A process that only sends, as a cron job or a Celery worker would: `python notify.py ada "Your parcel is here"`."""

from __future__ import annotations

import os
import sys

os.environ.setdefault("ALPHAVEL_BROADCAST_DRIVER", "http")  # over the HTTP API of the server, signed with the app's secret

from alphavel.websocket import WebSocket

if __name__ == "__main__":
    user, text = sys.argv[1:]
    pages = WebSocket.to_channel(f"private-user.{user}").push({"event": "notification", "data": {"text": text}})
    print(f"{user} has it on {pages} pages")
