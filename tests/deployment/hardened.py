"""
Runs a program under what a systemd unit forbids and a process can forbid itself: python hardened.py UNIT PROGRAM …

SystemCallFilter, SystemCallErrorNumber, MemoryDenyWriteExecute, RestrictAddressFamilies, NoNewPrivileges, and, where it may
mount something, ProtectProc and ProcSubset.
"""

from __future__ import annotations

import ctypes
import errno
import os
import re
import socket
import subprocess
import sys
from pathlib import Path

CLONE_NEWNS, MS_REC, MS_PRIVATE = 0x20000, 0x4000, 0x40000
PR_SET_NO_NEW_PRIVS, PR_SET_MDWE, PR_MDWE_REFUSE_EXEC_GAIN = 38, 65, 1
SCMP_ACT_ALLOW, SCMP_CMP_EQ = 0x7FFF0000, 4
SCMP_ACT_ERRNO = 0x00050000


class Comparison(ctypes.Structure):
    _fields_ = [("arg", ctypes.c_uint), ("op", ctypes.c_int), ("a", ctypes.c_uint64), ("b", ctypes.c_uint64)]


def names(group: str, seen: set[str]) -> set[str]:
    """The system calls of a group of systemd's, such as @system-service."""
    text = subprocess.run(["systemd-analyze", "syscall-filter", group], check=True, capture_output=True, text=True).stdout
    found: set[str] = set()
    for word in re.findall(r"(?m)^ +([@a-z_0-9-]+)", text):
        if word.startswith("@") and word not in seen:
            seen.add(word)
            found |= names(word, seen)
        elif not word.startswith("@"):
            found.add(word)
    return found


def main() -> None:
    unit = Path(sys.argv[1]).read_text(encoding="utf-8")
    allowed: set[str] = set()
    for forbids, groups in re.findall(r"(?m)^SystemCallFilter=(~?)(.*)$", unit):
        for group in groups.split():
            allowed = allowed - names(group, set()) if forbids else allowed | names(group, set())
    families = [getattr(socket, name) for name in re.search(r"(?m)^RestrictAddressFamilies=(.*)$", unit)[1].split()]

    libc, seccomp = ctypes.CDLL(None, use_errno=True), ctypes.CDLL("libseccomp.so.2")
    if "ProtectProc=invisible" in unit and "ProcSubset=pid" in unit and libc.unshare(CLONE_NEWNS) == 0:
        assert libc.mount(b"none", b"/", None, MS_REC | MS_PRIVATE, None) == 0
        if libc.mount(b"proc", b"/proc", b"proc", 0, b"subset=pid,hidepid=invisible"):
            print("this kernel cannot hide parts of /proc", flush=True)
    if "MemoryDenyWriteExecute=true" in unit and libc.prctl(PR_SET_MDWE, PR_MDWE_REFUSE_EXEC_GAIN, 0, 0, 0):
        print("this kernel knows no PR_SET_MDWE", flush=True)
    seccomp.seccomp_init.restype = ctypes.c_void_p
    context = ctypes.c_void_p(seccomp.seccomp_init(ctypes.c_uint32(SCMP_ACT_ERRNO | errno.EPERM)))
    for name in allowed - {"socket"}:
        number = seccomp.seccomp_syscall_resolve_name(name.encode())
        if number >= 0:
            assert seccomp.seccomp_rule_add(context, SCMP_ACT_ALLOW, number, 0) == 0, name
    for family in families:
        rule = Comparison(0, SCMP_CMP_EQ, int(family), 0)
        assert seccomp.seccomp_rule_add(context, SCMP_ACT_ALLOW, seccomp.seccomp_syscall_resolve_name(b"socket"), 1, rule) == 0
    assert seccomp.seccomp_load(context) == 0
    os.execv(sys.argv[2], sys.argv[2:])


main()
