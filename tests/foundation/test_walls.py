"""
The walls between the packages, as a user meets them who installs one without the other: in a bare virtual environment.
"""

from __future__ import annotations

import importlib.util
import json

import pytest

from tests.foundation.environments import Environment, copy_of_this_tree

# What belongs to one package alone; the foundation has click and PyYAML.
WEBSOCKET_NEEDS = ["gevent", "greenlet", "flask", "werkzeug", "jwt", "orjson", "psutil", "gunicorn", "geventwebsocket"]
BREAKER_NEEDS = ["rich", "requests", "urllib3"]
PACKAGES = [name for name in ("alphavel.websocket", "alphavel.circuit_breaker") if importlib.util.find_spec(name) is not None]
LOADED = "import json, sys; print(json.dumps(sorted(sys.modules)))"


@pytest.fixture(scope="session")
def bare(tmp_path_factory):
    """An environment with this tree, installed without extras."""
    environment = Environment(tmp_path_factory.mktemp("bare") / "venv")
    environment.install(str(copy_of_this_tree(tmp_path_factory.mktemp("tree"))))
    return environment


def modules(environment, statement):
    """Return the modules that are loaded once `statement` has run in a fresh interpreter."""
    result = environment.python(f"{statement}\n{LOADED}")
    assert result.returncode == 0, result.stderr
    return set(json.loads(result.stdout))


def belongs_to(loaded, names):
    return {module for module in loaded if module.partition(".")[0] in names}


def test_the_base_install_needs_click_and_pyyaml_and_nothing_else(bare):
    result = bare.python("import importlib.metadata as m; print(*sorted(d.name.lower() for d in m.distributions()))")
    assert result.stdout.split() == ["alphavel", "click", "pyyaml"]


@pytest.mark.parametrize("module", ["alphavel.foundation", *PACKAGES])
def test_each_package_can_be_imported_with_click_and_pyyaml_alone(bare, module):
    loaded = modules(bare, f"import {module}")
    assert module in loaded
    assert not belongs_to(loaded, [*WEBSOCKET_NEEDS, *BREAKER_NEEDS])


@pytest.mark.parametrize("module", PACKAGES)
def test_no_package_imports_another(bare, module):
    others = [other for other in ("alphavel.websocket", "alphavel.circuit_breaker") if other != module]
    for statement in (f"import {module}", f"from {module} import *"):
        result = bare.python(f"try:\n    {statement}\nexcept ImportError: pass\n{LOADED}")
        loaded = json.loads(result.stdout)
        assert not [name for name in loaded if name.startswith(tuple(others))]


def test_the_foundation_imports_no_package(bare):
    statement = "from alphavel.foundation import *\nfrom alphavel.foundation import config, control, example, console"
    loaded = modules(bare, statement)
    assert not [name for name in loaded if name.startswith(("alphavel.websocket", "alphavel.circuit_breaker"))]
    assert not belongs_to(loaded, [*WEBSOCKET_NEEDS, *BREAKER_NEEDS])


def test_finding_the_providers_imports_nothing_heavy(bare):
    loaded = modules(bare, "from alphavel.foundation.providers import discover; discover()")
    assert not belongs_to(loaded, [*WEBSOCKET_NEEDS, *BREAKER_NEEDS])


def test_importing_the_websocket_package_imports_neither_gevent_nor_flask_where_they_are_installed():
    """Here they are: the names to import stand for what is loaded when it is used."""
    from tests.support import python, run

    for statement in ("import alphavel.websocket", "from alphavel.websocket import WebSocket, WebSocketSettings"):
        result = run(python(), "-c", f"{statement}\n{LOADED}")
        assert not belongs_to(json.loads(result.stdout), ["gevent", "greenlet", "flask", "jwt", "orjson"]), statement


# What is not installed says what to install


@pytest.mark.parametrize(
    ("code", "sentence"),
    [
        (
            "from alphavel.websocket import WebSocket\nWebSocket.to_all()",
            "Nothing is bound to 'websocket'. Install it with `pip install \"alphavel[websocket]\"`.",
        ),
        ("from alphavel.websocket import blueprint", 'pip install "alphavel[websocket]"'),
        ("from alphavel.websocket import WebSocketServer", 'pip install "alphavel[websocket]"'),
    ],
)
def test_using_what_is_not_installed_says_what_to_install(bare, code, sentence):
    result = bare.python(code)
    assert result.returncode == 1
    assert sentence in result.stderr.splitlines()[-1]


def test_alpha_works_and_lists_what_cannot_be_used_yet(bare):
    result = bare.alpha("list")
    assert (result.returncode, result.stderr) == (0, "")
    assert "vendor:publish" in result.stdout
    assert 'alphavel.websocket  cannot be used: install orjson (pip install "alphavel[websocket]")' in result.stdout


def test_a_command_of_a_package_that_cannot_be_used_says_what_to_install(bare):
    result = bare.alpha("websocket:serve")
    assert result.returncode == 2
    assert "No such command 'websocket:serve'." in result.stderr
    assert 'pip install "alphavel[websocket]"' in result.stderr
    assert "Traceback" not in result.stderr


def test_configuration_files_can_be_published_before_the_rest_is_installed(bare, tmp_path):
    result = bare.alpha("vendor:publish", "--tag=websocket-config", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert (tmp_path / "config/websocket.yaml").exists()
