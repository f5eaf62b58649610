"""
The same session against soketi, recorded, and against this server. Where they differ, the reason stands here and in
docs/pusher.md; a difference that is gone fails as well.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.soketi.session import Session
from tests.support import ROOT
from tests.websocket.pusher import app

RECORDED = json.loads((ROOT / "tests/soketi/recorded.json").read_text())["steps"]

GREETING = {"event": "pusher:connection_established", "data": {"socket_id": "<socket_id>", "activity_timeout": 120}}
ERROR = {"event": "pusher:error"}

# By step: what this server says, and why it says something else than soketi.
DEVIATIONS = {
    "a greeting, and a pong": (
        {"a": [GREETING, {"event": "pusher:pong"}]}, "Pusher recommends 120 seconds of silence before a ping.",
    ),
    "an unknown key": (
        {"a": [{"closed": 4001}]}, "From version 6 on the code is in the close frame alone.",
    ),
    "a name that is none": (
        {"b": [{"event": "pusher:subscription_error", "channel": "has space", "data": {"type": "BadRequest", "status": 400}}]},
        "A status is an HTTP status, and there is a type, as in every other such event.",
    ),
    "somebody without info joins": (
        {
            "a": [
                {
                    "event": "pusher_internal:member_added", "channel": "presence-room",
                    "data": {"user_id": "u3", "user_info": None},
                }
            ],
            "b": [
                {
                    "event": "pusher_internal:subscription_succeeded", "channel": "presence-room",
                    "data": {"presence": {"ids": ["u1", "u3"], "hash": {"u1": {"name": "Ann"}, "u3": None}, "count": 2}},
                }
            ],
        },
        "Whom the hash leaves out, pusher-js does not know, while the count says they are there.",
    ),
    "somebody whose id is a number joins": (
        {
            "a": [
                {
                    "event": "pusher_internal:member_added", "channel": "presence-room",
                    "data": {"user_id": "7", "user_info": {}},
                }
            ],
            "b": [
                {
                    "event": "pusher_internal:subscription_succeeded", "channel": "presence-room",
                    "data": {"presence": {"ids": ["u1", "7"], "hash": {"7": {}, "u1": {"name": "Ann"}}, "count": 2}},
                }
            ],
        },
        "The hash knows texts only, so that 7 and \"7\" cannot be two users: ids are texts everywhere.",
    ),
    "and leaves as well": (
        {"a": [{"event": "pusher_internal:member_removed", "channel": "presence-room", "data": {"user_id": "7"}}]},
        "As above.",
    ),
    "b does not say who it is": (
        {
            "b": [
                {
                    "event": "pusher:subscription_error", "channel": "presence-room",
                    "data": {"type": "AuthError", "status": 401},
                }
            ]
        },
        "Nobody is signed in who could be meant: that is the client's mistake, not the server's.",
    ),
    "a whispers on a public channel": (
        {"a": [{**ERROR, "data": {"code": 4301}}]}, "Pusher allows client events on private and presence channels only.",
    ),
    "b whispers on a channel of a's": (
        {"b": [{**ERROR, "data": {"code": 4301}}]}, "Who is not subscribed is told so.",
    ),
    "a sends what does not begin with client-": (
        {"a": [{**ERROR, "data": {"code": 4404}}]},
        "It goes to the application's handlers; without one, the client is told so.",
    ),
    "a signs in": (
        {"a": [{"event": "pusher:signin_success", "data": {"user_data": '{"id": "u1", "user_info": {"name": "Ann"}}'}}]},
        "The signature was the client's; it need not come back.",
    ),
    "a joins the channel of somebody else": (
        {
            "a": [
                {
                    "event": "pusher:subscription_error", "channel": "#server-to-user-u2",
                    "data": {"type": "AuthError", "status": 401},
                }
            ]
        },
        "What is pushed to a user is for that user.",
    ),
    "d forges a sign-in": (
        {"d": [{**ERROR, "data": {"code": 4009}}]},
        "4009 would tell pusher-js to stay away for good: a failed sign-in should not cost a page its public channels.",
    ),
    **{
        step: ({"b": [{**ERROR, "data": {"code": code}}]}, "Whoever sends what makes no sense is told so.")
        for step, code in {
            "no JSON": 4400, "no object": 4400, "no event": 4400, "an unknown event of Pusher's": 4404,
            "what only servers say": 4404,
        }.items()
    },
}  # fmt: skip


def comparable(step):
    """Without words, which are everybody's own, and without empty data, which soketi leaves out and this server does not."""

    def frame(event):
        data = event.get("data")
        if isinstance(data, dict):
            data = {name: value for name, value in data.items() if name not in ("message", "error")}
        return {**{name: value for name, value in event.items() if name != "data"}, **({"data": data} if data else {})}

    return {client: [frame(event) for event in frames] for client, frames in step.items()}


@pytest.fixture(scope="module")
def said():
    """What this server says in the session, filled by the first test that needs it."""
    return {}


@pytest.fixture
def ours(serve, said):
    if not said:
        server = serve(apps=(app(client_events=True),))
        said.update(Session(server.port).run())
    return said


@pytest.mark.parametrize("step", RECORDED)
def test_both_say_the_same_where_there_is_no_reason_to_differ(ours, step):
    mine, theirs = comparable(ours[step]), comparable(RECORDED[step])
    if step in DEVIATIONS:
        assert mine == DEVIATIONS[step][0]
        assert mine != theirs, "the difference is gone; so may its reason be"
    else:
        assert mine == theirs


def test_the_session_is_the_one_that_was_recorded(ours):
    assert list(ours) == list(RECORDED)
    assert set(DEVIATIONS) <= set(RECORDED)


def test_the_documentation_names_every_deviation():
    text = " ".join((Path(ROOT) / "docs/pusher.md").read_text().split())
    for step, (_, reason) in DEVIATIONS.items():
        assert reason == "As above." or reason in text, step
