"""
Record what soketi says: `python -m tests.soketi.record` installs it with npm into a folder of its own (435 MB), plays the
session, and writes recorded.json. `SOKETI=folder` names one where it is installed already.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

from tests.soketi.session import Session
from tests.support import Program
from tests.websocket.pusher import KEY, SECRET

RECORDED = Path(__file__).with_name("recorded.json")
VERSION = "1.6.1"
PORT = 6801
MANIFEST = {
    "private": True,
    "dependencies": {"@soketi/soketi": VERSION},
    # The original is not on the registry.
    "overrides": {"uWebSockets.js": "npm:uwebsockets@3.0.6"},
}


def record(folder: Path) -> dict[str, Any]:
    if not (folder / "node_modules/.bin/soketi").exists():
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "package.json").write_text(json.dumps(MANIFEST))
        subprocess.run(["npm", "install", "--no-audit", "--no-fund"], cwd=folder, check=True)
    environment = {
        "SOKETI_PORT": str(PORT),
        "SOKETI_METRICS_ENABLED": "false",
        "SOKETI_DEFAULT_APP_ID": "1",
        "SOKETI_DEFAULT_APP_KEY": KEY,
        "SOKETI_DEFAULT_APP_SECRET": SECRET,
        "SOKETI_DEFAULT_APP_ENABLE_CLIENT_MESSAGES": "true",
        "SOKETI_DEFAULT_APP_USER_AUTHENTICATION": "true",
    }
    with Program(str(folder / "node_modules/.bin/soketi"), "start", cwd=folder, **environment) as program:
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline:
            with contextlib.suppress(urllib.error.URLError, ConnectionError):
                urllib.request.urlopen(f"http://127.0.0.1:{PORT}/ready", timeout=30).close()
                break
            time.sleep(0.2)
        else:
            raise SystemExit(f"soketi does not answer:\n{program.output}")
        return {"soketi": VERSION, "steps": Session(PORT, settle_s=0.15).run()}


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as temporary:
        recorded = record(Path(os.environ.get("SOKETI", temporary)))
    RECORDED.write_text(json.dumps(recorded, indent=1) + "\n")
    sys.stdout.write(f"{len(recorded['steps'])} steps are in {RECORDED}\n")
