"""What the documentation shows as configuration is one."""

from __future__ import annotations

import re

import pytest

from alphavel.foundation.config import parse
from alphavel.foundation.schema import load_settings
from alphavel.websocket import WebSocketServer, WebSocketSettings
from tests.support import ROOT

BLOCK = re.compile(r"^( *)```yaml\n(.*?)^ *```$", re.DOTALL | re.MULTILINE)
PAGES = {path.name: BLOCK.findall(path.read_text()) for path in sorted((ROOT / "docs").glob("*.md"))}
FOR_THE_SERVER = [
    pytest.param(text, id=f"{page} {number}")
    for page, blocks in PAGES.items()
    for number, (_, text) in enumerate(blocks, 1)
    if text.lstrip("# ").partition("\n")[0].startswith("config/websocket.yaml") or text.startswith("broadcasting:")
]


@pytest.mark.parametrize("text", FOR_THE_SERVER)
def test_each_configuration_in_the_docs_is_understood(text, monkeypatch):
    for name in ("PUSHER_APP_KEY", "PUSHER_APP_SECRET", "FLEET_SECRET"):
        monkeypatch.setenv(name, "from-the-environment")
    settings = load_settings(WebSocketSettings, parse(text, "docs"), "docs")
    if settings.broadcasting.driver != "http":
        WebSocketServer(settings)


def test_there_are_such_configurations():
    assert len(FOR_THE_SERVER) >= 4
