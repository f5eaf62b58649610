"""
`make autobahn`: the Autobahn test suite against both transports, and a table of what it found.

The suite is a program for Python 2.7. It is taken from where it can be had: Docker's image, or a CPython 2.7 (its path in
PYTHON27, or one of pyenv's), in which it is installed under `.autobahn/`. Exits with 1 where a case failed or did not run.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

HERE = Path(__file__).parent
WORK = HERE.parent.parent / ".autobahn"
SUITE = "autobahntestsuite==25.10.1"
IMAGE = "crossbario/autobahn-testsuite"
GROUPS = ["1.*", "2.*", "3.*", "4.*", "5.*", "6.*", "7.*", "9.*", "10.*", "12.*", "13.*"]
EXPECTED_CASES = 517
GOOD = ("OK", "INFORMATIONAL")


def main() -> int:
    """Run what is asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--transport", choices=("parked", "greenlet"), action="append", help="Default: both.")
    parser.add_argument("--cases", nargs="+", default=GROUPS, help="Such as 6.* or 12.1.1.")
    arguments = parser.parse_args()
    wstest = find_suite()
    failed = False
    for transport in arguments.transport or ["parked", "greenlet"]:
        results = run_suite(wstest, transport, arguments.cases)
        failed |= not show(transport, results, EXPECTED_CASES if arguments.cases == GROUPS else 1)
    return int(failed)


def find_suite() -> list[str]:
    """Return the command that starts `wstest`, installed where necessary."""
    if shutil.which("docker") and subprocess.run(["docker", "info"], capture_output=True, check=False).returncode == 0:
        print(f"Using Docker's image {IMAGE}")
        return ["docker", "run", "--rm", "--network=host", "-v", f"{WORK}:{WORK}", IMAGE, "wstest"]
    wstest = WORK / "venv" / "bin" / "wstest"
    if not wstest.exists():
        install(find_python27())
    print(f"Using {wstest.relative_to(HERE.parent.parent)}")
    return [str(wstest)]


def find_python27() -> str:
    """Return the path of a CPython 2.7, or end with what to do."""
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"))
    candidates = [os.environ.get("PYTHON27"), shutil.which("python2.7"), *map(str, pyenv.glob("versions/2.7.*/bin/python2.7"))]
    for candidate in candidates:
        if (
            candidate
            and subprocess.run([candidate, "-c", "import ssl, zlib"], capture_output=True, check=False).returncode == 0
        ):
            return candidate
    sys.exit("The Autobahn suite needs Docker, or a CPython 2.7: install one (pyenv install 2.7.18), or name it in PYTHON27.")


def install(python: str) -> None:
    """Install the suite for `python` into `.autobahn/venv`; takes a minute or two."""
    print(f"Installing {SUITE} for {python} …", flush=True)
    shutil.rmtree(WORK, ignore_errors=True)
    tools = WORK / "tools"
    with_tools = {**os.environ, "PYTHONPATH": str(tools)}
    for command, environment in (
        ([python, "-m", "pip", "install", "-q", "--target", str(tools), "virtualenv==20.15.1"], None),
        ([python, "-m", "virtualenv", "-q", str(WORK / "venv")], with_tools),
        # hyperlink needs typing on Python 2.7 and, installed from its wheel, does not always say so. Without the tools on the
        # path: they hold a typing too, which the suite would not find when it runs.
        ([str(WORK / "venv/bin/pip"), "install", "-q", SUITE, "typing==3.10.0.0"], None),
    ):
        subprocess.run(command, env=environment, stdout=subprocess.DEVNULL, check=True)


def run_suite(wstest: list[str], transport: str, cases: list[str]) -> dict[str, dict[str, str]]:
    """Return `{case: {"behavior": …, "behaviorClose": …}}`."""
    server = subprocess.Popen([sys.executable, str(HERE / "echo_server.py"), transport], stdout=subprocess.PIPE, text=True)
    assert server.stdout is not None
    port = int(server.stdout.readline())
    out = WORK / "reports" / transport
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    agent = f"alphavel-{transport}"
    spec = {
        "outdir": str(out),
        "servers": [{"agent": agent, "url": f"ws://127.0.0.1:{port}/echo"}],
        "cases": cases,
        "exclude-cases": [],
        "exclude-agent-cases": {},
    }
    (WORK / f"{transport}.json").write_text(json.dumps(spec))
    log = WORK / f"{transport}.log"
    print(f"Running against the {transport} transport; minutes, progress in {log.relative_to(HERE.parent.parent)}", flush=True)
    try:
        with log.open("w") as output:
            command = [*wstest, "-m", "fuzzingclient", "-s", str(WORK / f"{transport}.json")]
            subprocess.run(command, stdout=output, stderr=subprocess.STDOUT, check=True)
    finally:
        server.terminate()
        server.wait()
    results = json.loads((out / "index.json").read_text())[agent]
    print(f"Report: {out.relative_to(HERE.parent.parent) / 'index.html'}")
    return results


def show(transport: str, results: dict[str, dict[str, str]], expected: int) -> bool:
    """Print a table by group; return whether all is well."""
    groups: dict[int, Counter[str]] = {}
    for case, result in results.items():
        groups.setdefault(int(case.split(".")[0]), Counter())[result["behavior"]] += 1
    bad = {case: r for case, r in results.items() if r["behavior"] not in GOOD or r["behaviorClose"] not in GOOD}
    print(f"\n{transport} transport: {len(results)} cases")
    for group in sorted(groups):
        print(f"  {group:>3}  " + ", ".join(f"{count} {name}" for name, count in sorted(groups[group].items())))
    for case, result in bad.items():
        print(f"  not passed: {case}: {result['behavior']}, closing handshake {result['behaviorClose']}")
    if len(results) < expected:
        print(f"  {expected - len(results)} cases did not run")
    return not bad and len(results) >= expected


if __name__ == "__main__":
    sys.exit(main())
