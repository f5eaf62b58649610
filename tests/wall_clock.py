"""A wall clock that a test sets while programs run, as an administrator, NTP or a hypervisor does. No other clock changes."""

from __future__ import annotations

import struct
import time
from pathlib import Path

from tests.support import ROOT, run


class WallClock:
    """
    The wall clock of the programs that are started with its environment: `Program(…, **clock.environment)`.

    Attributes:
        environment: What makes it a program's clock.
        ahead: Seconds between the machine's own and this one.
    """

    def __init__(self, folder: Path) -> None:
        """
        Args:
            folder: Of the test's own.
        """
        library, self._file = folder / "wall_clock.so", folder / "wall_clock"
        built = run("cc", "-O1", "-Wall", "-Werror", "-fPIC", "-shared", "-o", library, ROOT / "tests/wall_clock.c")
        assert built.returncode == 0, built.stderr
        self.environment = {"LD_PRELOAD": str(library), "WALL_CLOCK": str(self._file)}
        self.ahead = 0
        self._file.write_bytes(struct.pack("@q", 0))

    def jump(self, seconds: int) -> None:
        """Set it forward, or back, from one moment to the next."""
        self.ahead += seconds
        with self._file.open("r+b") as file:  # in place: programs have it mapped
            file.write(struct.pack("@q", self.ahead))

    def now(self) -> float:
        """Return what it shows, seconds since the epoch."""
        return time.time() + self.ahead
