"""Histories as another process can take them over: JSON-able, with ages in place of times."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from alphavel.websocket.channels import Kept, Position
from alphavel.websocket.protocols import Message
from alphavel.websocket.protocols.messages import FromClient

if TYPE_CHECKING:
    from alphavel.websocket.channels import Histories, History


def transcript(history: History) -> dict[str, Any]:
    """Return what a history holds."""
    now = history.histories.now()
    return {
        "channel": history.channel,
        **history.position._asdict(),
        "lost": history.lost,
        "lost_number": history.lost_number,
        "entries": [_entry(published, kept, now) for published, kept in history.all()],
    }


def enter(histories: Histories, content: dict[str, Any]) -> None:
    """
    Enter what `transcript` returned, in place of what is known of the channel. Does nothing where it keeps no history here.

    Raises:
        KeyError, TypeError, ValueError: It is nothing of the sort.
    """
    history = histories.replace(content["channel"], Position(str(content["epoch"]), int(content["serial"])))
    if history is None:
        return
    history.lost, history.lost_number = int(content["lost"]), int(content["lost_number"])
    now = histories.now()
    for entry in content["entries"]:
        message = Message.of_content(entry["message"])
        event = FromClient(message, entry["user"]) if "user" in entry else message
        left = entry.get("left")
        expires_at = None if left is None else now + left
        kept = Kept(history, entry["serial"], event, frozenset(entry.get("except", ())), expires_at, entry["number"])
        history.append(now - entry["age"], kept)


def _entry(published: float, kept: Kept, now: float) -> dict[str, Any]:
    event = kept.message
    entry: dict[str, Any] = {"serial": kept.serial, "number": kept.number, "age": now - published}
    if isinstance(event, FromClient):
        entry["user"], entry["message"] = event.user_id, event.message.as_content()
    else:
        entry["message"] = event.as_content()
    if kept.excluded:
        entry["except"] = sorted(kept.excluded)
    if kept.expires_at is not None:
        entry["left"] = kept.expires_at - now
    return entry
