"""
The file and the folder that the processes of one machine share, and the steps on them that cannot tear.

`PATH` is mapped into memory by all: a page of header, then rows of fixed size, one for each service and worker slot, and one
more (slot 0) for the service itself. A row is written by the process that holds its slot alone; readers sum rows. Every
field is written with one aligned store of 4 or 8 bytes.

`PATH.ID` is a folder of empty files whose *names* say what must be decided by one of many: who holds a slot, and a service's
record. To change a record is to rename its file: the kernel lets one of those that rename the same name win, the others
find it gone, and a process that is killed has renamed it or has not. Nothing is locked, nothing can be half written.
"""

from __future__ import annotations

import errno
import hashlib
import mmap
import os
import secrets
import stat
import struct
import time
import zlib
from pathlib import Path
from typing import NamedTuple

from alphavel.circuit_breaker.errors import StoreError
from alphavel.circuit_breaker.listeners import logger

HEADER_BYTES = 4096
FIXED_BYTES = 40
"""A row without its ring of failure times: four 8-byte fields and two of 4 bytes."""

_MAGIC = b"ALPHACBR"
_VERSION = 1
_HEADER = struct.Struct("<8sIIIII16s16s")  # magic, version, row bytes, services, workers, ring, boot, id
_ATTEMPTS = 8
_NAME_BYTES = 1000


class Geometry(NamedTuple):
    """
    How many rows of which size.

    Attributes:
        services: Services there is room for.
        workers: Worker slots of each.
        ring: Failure times in a row, at least the largest failure threshold.
    """

    services: int
    workers: int
    ring: int

    @property
    def row_bytes(self) -> int:
        """Size of a row: 80 where no threshold is above five."""
        return FIXED_BYTES + 8 * self.ring

    @property
    def file_bytes(self) -> int:
        """Size of the file. Rows nobody has used take no memory."""
        return HEADER_BYTES + self.services * (self.workers + 1) * self.row_bytes

    def row(self, service: int, slot: int) -> int:
        """Return where a row begins."""
        return HEADER_BYTES + (service * (self.workers + 1) + slot) * self.row_bytes


class CircuitFile:
    """
    An open file and its folder.

    Attributes:
        folder: The folder.
        map: The mapped file.
    """

    def __init__(self, path: str, geometry: Geometry) -> None:
        """
        Open the file, made where there is none; one that cannot be trusted is set aside with a message.

        Raises:
            StoreError: It cannot be made or opened, or belongs to somebody else.
        """
        self._path = path
        self._geometry = geometry
        try:
            for _ in range(_ATTEMPTS):
                self._make()
                wrong = self._open()
                if wrong is None:
                    return
                self._set_aside(wrong)
        except OSError as error:
            raise StoreError(
                f"The shared circuits in {path} cannot be used: {error}. Name another file in stores.shared.path."
            ) from error
        raise StoreError(f"The shared circuits in {path} cannot be used: others keep replacing the file.")

    def _make(self) -> None:
        if os.path.lexists(self._path):
            return
        identity = secrets.token_hex(8)
        folder = f"{self._path}.{identity}"
        os.mkdir(folder, 0o700)
        for slot in range(1, self._geometry.workers + 1):
            touch(os.path.join(folder, f"worker~{slot}~0~0"))
        draft = os.path.join(folder, "draft")
        with open(os.open(draft, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600), "wb") as file:
            file.write(self._header(identity))
            file.truncate(self._geometry.file_bytes)
        try:
            os.link(draft, self._path)  # complete from its first moment on
        except FileExistsError:
            remove(folder)  # somebody else was faster
            return
        os.unlink(draft)

    def _header(self, identity: str) -> bytes:
        geometry = self._geometry
        header = _HEADER.pack(
            _MAGIC, _VERSION, geometry.row_bytes, geometry.services, geometry.workers, geometry.ring, boot(), identity.encode()
        )
        return header + struct.pack("<I", zlib.crc32(header))

    def _open(self) -> str | None:
        """Map the file; return what is wrong with it, None where nothing is."""
        try:
            descriptor = os.open(self._path, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
        except FileNotFoundError:
            return "it is gone"
        try:
            status = os.fstat(descriptor)
            if status.st_uid != os.geteuid() or not stat.S_ISREG(status.st_mode) or status.st_mode & 0o077:
                raise StoreError(
                    f"{self._path} must be a file of this user's that nobody else may read (mode 0600). "
                    "Name another file in stores.shared.path."
                )
            header = os.pread(descriptor, _HEADER.size + 4, 0)
            wrong = self._wrong_with(header, status.st_size)
            if wrong is None:
                self.map = mmap.mmap(descriptor, self._geometry.file_bytes)
        finally:
            os.close(descriptor)
        return wrong

    def _wrong_with(self, header: bytes, size: int) -> str | None:
        if len(header) != _HEADER.size + 4 or header[:8] != _MAGIC:
            return "it is no file of circuits"
        _, version, _, services, workers, ring, booted, identity = _HEADER.unpack(header[:-4])
        if version != _VERSION:
            return f"it is of version {version}, this is version {_VERSION}"
        if struct.unpack("<I", header[-4:])[0] != zlib.crc32(header[:-4]):
            return "its header is damaged"
        if Geometry(services, workers, ring) != self._geometry:
            return (
                f"it was made for {services} services, {workers} workers and thresholds up to {ring}, the configuration "
                f"now asks for {self._geometry.services}, {self._geometry.workers} and {self._geometry.ring}"
            )
        if size != self._geometry.file_bytes:
            return f"it has {size} bytes in place of {self._geometry.file_bytes}"
        if booted != boot():
            return "it is from before the machine was started, and so are its times"
        self.folder = f"{self._path}.{identity.decode()}"
        try:
            status = os.lstat(self.folder)
        except FileNotFoundError:
            return "its folder is gone"
        if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.geteuid() or status.st_mode & 0o077:
            return f"{self.folder} is no folder of this user's that nobody else may enter"
        return None

    def _set_aside(self, wrong: str) -> None:
        aside = f"{self._path}.aside-{time.time_ns()}"
        try:
            os.rename(self._path, aside)
        except FileNotFoundError:
            return  # somebody else was faster
        logger.warning("%s cannot be trusted: %s. It is now %s; all circuits begin anew.", self._path, wrong, aside)


def swap(folder: str, old: str, new: str) -> bool:
    """Rename a file in one step; False where somebody else has renamed it first."""
    try:
        os.rename(os.path.join(folder, old), os.path.join(folder, new))
    except FileNotFoundError:
        return False
    return True


def claim(folder: str, workers: int) -> int:
    """
    Take a worker slot that is free or whose process is gone.

    Returns:
        Its number, from 1 on; 0: all are in use.
    """
    mine = f"{os.getpid()}~{started(os.getpid())}"
    for _ in range(_ATTEMPTS):
        held = sorted(
            (name.split("~") for name in os.listdir(folder) if name.startswith("worker~")), key=lambda parts: int(parts[1])
        )
        for _, slot, pid, start in held:
            if pid != "0" and started(int(pid)) == start:
                continue
            if swap(folder, f"worker~{slot}~{pid}~{start}", f"worker~{slot}~{mine}"):
                _clean_up_after(folder, pid)
                return int(slot)
        if len(held) == workers:
            return 0
    return 0


def release(folder: str, slot: int) -> None:
    """Give a slot of this process back."""
    swap(folder, f"worker~{slot}~{os.getpid()}~{started(os.getpid())}", f"worker~{slot}~0~0")


def register(folder: str, services: int, service: str, record: str) -> int | None:
    """
    Find a service's number, or give it one: it gets a folder, complete from its first moment on.

    Args:
        folder: The folder of all.
        services: How many there may be.
        service: Its name.
        record: The name of the file that is its first record.

    Returns:
        The number; None: there is no room.
    """
    wanted = _fitting(service)
    start = zlib.crc32(wanted.encode())
    for step in range(services):
        number = (start + step) % services
        there = os.path.join(folder, f"service~{number}")
        for _ in range(2):
            try:
                name = os.readlink(os.path.join(there, "name"))
            except FileNotFoundError:
                _offer(folder, there, wanted, record)
                continue
            if name == wanted:
                return number
            break
    return None


def registered(folder: str) -> list[str]:
    """Return the names of all services."""
    names = []
    for entry in os.listdir(folder):
        if entry.startswith("service~"):
            try:
                names.append(os.readlink(os.path.join(folder, entry, "name")))
            except FileNotFoundError:
                continue
    return sorted(names)


def _offer(folder: str, there: str, name: str, record: str) -> None:
    draft = os.path.join(folder, f"draft~{os.getpid()}~{secrets.token_hex(8)}")
    os.mkdir(draft, 0o700)
    os.symlink(name, os.path.join(draft, "name"))
    touch(os.path.join(draft, record))
    try:
        os.rename(draft, there)
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
            raise
        remove(draft)  # somebody else was faster


def _fitting(name: str) -> str:
    data = name.encode("utf-8", "surrogatepass")
    if len(data) <= _NAME_BYTES and "\0" not in name:
        return name
    return f"{name[:100]!a}…{hashlib.sha256(data).hexdigest()}"


def _clean_up_after(folder: str, pid: str) -> None:
    for name in os.listdir(folder):
        if name.startswith(f"draft~{pid}~"):
            remove(os.path.join(folder, name))


def touch(path: str) -> None:
    """Make an empty file."""
    os.close(os.open(path, os.O_CREAT | os.O_WRONLY | os.O_CLOEXEC, 0o600))


def remove(folder: str) -> None:
    """Remove a folder of files."""
    for name in os.listdir(folder):
        os.unlink(os.path.join(folder, name))
    os.rmdir(folder)


def started(pid: int) -> str:
    """Return when a process was started, in ticks since the machine was: with its id that names it for good. Gone: empty."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="ascii", errors="replace")
    except OSError:
        return ""
    fields = text.rpartition(")")[2].split()
    return "" if fields[0] in "ZX" else fields[19]


def boot() -> bytes:
    """Return 16 bytes that are others after each start of the machine; its monotonic clock starts over then."""
    try:
        text = Path("/proc/sys/kernel/random/boot_id").read_bytes()
    except OSError:
        text = b""
    return hashlib.sha256(text).digest()[:16]
