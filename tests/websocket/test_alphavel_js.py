"""alphavel.js, the client for browsers: in Node against the real server, and as TypeScript sees it."""

from __future__ import annotations

from tests.support import ROOT, run, script

NODE = ROOT / "tests/node"
STATIC = ROOT / "alphavel/websocket/http/static"
TSC = NODE / "node_modules/.bin/tsc"
STRICT = ("--strict", "--noEmit", "--target", "es2022", "--module", "esnext", "--moduleResolution", "bundler")


def test_alphavel_js_against_the_server():
    result = run("node", "--test", "--test-reporter=spec", NODE / "alphavel.test.mjs", ALPHA=script("alpha"))
    assert result.returncode == 0, result.stdout + result.stderr
    assert "fail 0" in result.stdout
    assert "skipped 0" in result.stdout


def test_shipped_types_are_those_of_the_code(tmp_path):
    result = run(TSC, "--project", NODE, "--outDir", tmp_path)
    assert result.returncode == 0, result.stdout
    made, shipped = (tmp_path / "alphavel.d.ts").read_text(), (STATIC / "alphavel.d.ts").read_text()
    assert made == shipped, "make them anew: tests/node/node_modules/.bin/tsc --project tests/node"


def test_typescript_knows_the_data_of_each_event():
    result = run(TSC, *STRICT, NODE / "types.ts")
    assert result.returncode == 0, result.stdout
