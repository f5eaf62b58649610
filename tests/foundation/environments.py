"""Virtual environments of the tests' own: what a user gets who installs this tree with pip."""

from __future__ import annotations

import shutil
import subprocess
import sys
import venv
from pathlib import Path

from tests.support import ROOT, run

SOURCES = ("alphavel", "setup.cfg", "pyproject.toml", "README.md", "LICENSE")


class Environment:
    """
    A virtual environment without anything of this one.

    Attributes:
        folder: Where it is.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        venv.create(folder, symlinks=True)

    def install(self, *what: str) -> None:
        """Install with pip; the environment itself need not have one."""
        self.pip("install", "--disable-pip-version-check", *what)

    def pip(self, command: str, *arguments: str) -> None:
        """Run a command of pip, this Python's, on this environment."""
        python = str(self.folder / "bin/python")
        pip = [sys.executable, "-m", "pip", "--python", python, command, "-q", *arguments]
        done = subprocess.run(pip, check=False, timeout=300, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr

    def python(self, code: str, *options: str, cwd: Path | None = None, **environment: str) -> subprocess.CompletedProcess[str]:
        """Run Python code in it."""
        return run(str(self.folder / "bin/python"), "-I", *options, "-c", code, cwd=cwd or self.folder, **environment)

    def alpha(self, *arguments: str, cwd: Path | None = None, **environment: str) -> subprocess.CompletedProcess[str]:
        """Run its `alpha` command."""
        return run(str(self.folder / "bin/alpha"), *arguments, cwd=cwd or self.folder, **environment)


def copy_of_this_tree(folder: Path) -> Path:
    """Copy what is needed to install this tree: building in place would leave files in it."""
    folder.mkdir(exist_ok=True)
    for name in SOURCES:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(ROOT / name, folder)
    return folder


def a_package(folder: Path, name: str, providers: dict[str, str], code: str) -> Path:
    """Write somebody else's package; `providers` are its entry points, in the module that `code` becomes."""
    (folder / name).mkdir(parents=True)
    (folder / name / "__init__.py").write_text(code)
    entries = "".join(f'{entry} = "{target}"\n' for entry, target in providers.items())
    (folder / "pyproject.toml").write_text(
        '[build-system]\nrequires = ["setuptools"]\nbuild-backend = "setuptools.build_meta"\n\n'
        f'[project]\nname = "{name}"\nversion = "2.5"\n\n[tool.setuptools]\npackages = ["{name}"]\n\n'
        f'[project.entry-points."alphavel.providers"]\n{entries}'
    )
    return folder
