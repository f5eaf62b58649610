"""
Builds three wheels from this one tree: `alphavel`, `alphavel-websocket` and `alphavel-circuit-breaker`.

`python -m scripts.wheels [FOLDER]`, `make wheels`. What each needs stands once, in setup.cfg, which installs all of them for
development; each has the version and the changelog of its package. `alphavel` is a namespace: the three share it without
knowing of each other.
"""

from __future__ import annotations

import ast
import configparser
import io
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parent.parent
DEVELOPMENT = ("bench", "dev", "docs", "test")  # extras of setup.cfg that no user installs
FOUNDATION = "alphavel"


@dataclass(frozen=True)
class Distribution:
    """
    What becomes a wheel.

    Attributes:
        name: As it is installed.
        package: The Python package in it.
        extra: The extra of setup.cfg that it stands for; None for the foundation.
        description: One line.
        keywords: For searches.
    """

    name: str
    package: str
    extra: str | None
    description: str
    keywords: str

    @property
    def folder(self) -> Path:
        """Where its code is."""
        return ROOT.joinpath(*self.package.split("."))

    @property
    def version(self) -> str:
        """Its `__version__`, read without importing it."""
        for statement in ast.parse((self.folder / "__init__.py").read_text(encoding="utf-8")).body:
            if isinstance(statement, ast.Assign) and ast.unparse(statement.targets[0]) == "__version__":
                return str(ast.literal_eval(statement.value))
        raise ValueError(f"{self.package} does not say its __version__")


DISTRIBUTIONS = (
    Distribution(
        FOUNDATION,
        "alphavel.foundation",
        None,
        "What Alphavel's packages stand on: configuration, service providers, facades and the alpha command",
        "flask, service provider, facade, configuration",
    ),
    Distribution(
        "alphavel-websocket",
        "alphavel.websocket",
        "websocket",
        "Realtime broadcasting for Flask on gevent: a WebSocket server that also speaks Pusher's protocol",
        "websocket, flask, gevent, broadcasting, pusher, laravel echo",
    ),
    Distribution(
        "alphavel-circuit-breaker",
        "alphavel.circuit_breaker",
        "circuit-breaker",
        "A circuit breaker without locks around blocking calls: for greenlets, threads, asyncio and several processes",
        "circuit breaker, resilience, requests, sqlalchemy, redis, flask",
    ),
)


def build(target: Path) -> list[Path]:
    """Build the wheels into `target` and return their paths."""
    with tempfile.TemporaryDirectory() as folder:
        trees = [write_tree(distribution, Path(folder, distribution.name)) for distribution in DISTRIBUTIONS]
        wheels = Path(folder, "wheels")
        pip = [sys.executable, "-m", "pip", "wheel", "-q", "--disable-pip-version-check", "--no-deps", "-w", str(wheels)]
        subprocess.run([*pip, *map(str, trees)], check=True)
        target.mkdir(parents=True, exist_ok=True)
        return sorted(Path(shutil.copy(wheel, target)) for wheel in wheels.iterdir())


def write_tree(distribution: Distribution, tree: Path) -> Path:
    """Write a project of its own for one distribution: its package, and what setuptools has to know."""
    package = tree / distribution.folder.relative_to(ROOT)
    shutil.copytree(distribution.folder, package, ignore=shutil.ignore_patterns("__pycache__", "*.so"))
    for name in ("LICENSE", "README.md"):
        shutil.copy(ROOT / name, tree)
    shutil.copy(distribution.folder / "CHANGELOG.md", tree)
    (tree / "pyproject.toml").write_text(
        '[build-system]\nrequires = ["setuptools>=70"]\nbuild-backend = "setuptools.build_meta"\n', encoding="utf-8"
    )
    (tree / "setup.cfg").write_text(setup_cfg(distribution), encoding="utf-8")
    if any(package.rglob("*.c")):
        shutil.copy(ROOT / "setup.py", tree)  # it names the extensions
    return tree


def setup_cfg(distribution: Distribution) -> str:
    """Return the distribution's part of the tree's setup.cfg."""
    ours = _read()
    options, extras, entries = ours["options"], ours["options.extras_require"], ours["options.entry_points"]
    made = configparser.ConfigParser(interpolation=None)
    made["metadata"] = {
        **ours["metadata"],
        "name": distribution.name,
        "version": distribution.version,
        "description": distribution.description,
        "long_description": "file: README.md, CHANGELOG.md",
        "keywords": distribution.keywords,
    }
    needs = _lines(options["install_requires"])
    if distribution.extra is not None:
        needs = [_at_least(DISTRIBUTIONS[0]), *_lines(extras[distribution.extra])]
    made["options"] = {**options, "install_requires": _block(needs)}
    made["options.packages.find"] = {"include": f"{distribution.package}*"}
    data = ours["options.package_data"]
    made["options.package_data"] = {key: data[key] for key in data if key in ("*", distribution.package)}
    made["options.extras_require"] = {name: _block(wants) for name, wants in _extras(distribution, extras).items()}
    made["options.entry_points"] = _entry_points(distribution, entries)
    if any(distribution.folder.rglob("*.c")):
        made["bdist_wheel"] = ours["bdist_wheel"]
    text = io.StringIO()
    made.write(text)
    return text.getvalue()


def _extras(distribution: Distribution, extras: configparser.SectionProxy) -> dict[str, list[str]]:
    """`alphavel[websocket]` and the like stay what people type; what is no package of ours, each distribution offers."""
    packages = {other.extra: [_at_least(other)] for other in DISTRIBUTIONS if other.extra}
    optional = {name: _lines(extras[name]) for name in extras if name not in (*packages, *DEVELOPMENT, "all", "sender")}
    if distribution.extra is not None:
        return optional
    every = [need for needs in (*packages.values(), *optional.values()) for need in needs]
    return {**packages, **optional, "sender": [*packages["websocket"], *_lines(extras["sender"])], "all": every}


def _entry_points(distribution: Distribution, entries: configparser.SectionProxy) -> dict[str, str]:
    if distribution.extra is None:
        # `gunicorn -k egg:alphavel#geventwebsocket` looks into this distribution; the worker comes with `alphavel[websocket]`.
        workers = [f"{worker} [websocket]" for worker in _lines(entries["gunicorn.workers"])]
        return {"console_scripts": entries["console_scripts"], "gunicorn.workers": _block(workers)}
    kept = {}
    for group in entries:
        own = [entry for entry in _lines(entries[group]) if f"= {distribution.package}." in entry]
        if own:
            kept[group] = _block(own)
    return kept


def _at_least(distribution: Distribution) -> str:
    major = int(distribution.version.partition(".")[0])
    return f"{distribution.name}>={distribution.version},<{major + 1}"


def _read() -> configparser.ConfigParser:
    parser = configparser.ConfigParser(interpolation=None)
    parser.read(ROOT / "setup.cfg", encoding="utf-8")
    return parser


def _lines(text: str) -> list[str]:
    return [line.strip() for line in text.splitlines() if line.strip()]


def _block(lines: list[str]) -> str:
    return "".join(f"\n{line}" for line in lines)


def main() -> None:
    """Build them and say what was built."""
    for wheel in build(Path(sys.argv[1] if len(sys.argv) > 1 else ROOT / "dist")):
        print(wheel.relative_to(Path.cwd()) if wheel.is_relative_to(Path.cwd()) else wheel)


if __name__ == "__main__":
    main()
