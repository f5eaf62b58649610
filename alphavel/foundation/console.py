"""The `alpha` command: the foundation's own commands and those of every installed provider."""

from __future__ import annotations

import difflib
import importlib.metadata
import os
import sys
import warnings
from typing import Any

import click

from alphavel.foundation.config import FOLDER_VARIABLE
from alphavel.foundation.errors import ConfigurationError
from alphavel.foundation.providers import ProviderWarning, discover
from alphavel.foundation.publishing import Outcome, publish


class _Alpha(click.Group):
    """Finds the providers' commands when they are asked for."""

    def list_commands(self, context: click.Context) -> list[str]:
        return [*super().list_commands(context), *_provided()]

    def get_command(self, context: click.Context, name: str) -> click.Command | None:
        return super().get_command(context, name) or _provided().get(name)

    def resolve_command(self, context: click.Context, args: list[str]) -> Any:
        try:
            return super().resolve_command(context, args)
        except click.UsageError as error:
            hint = _hint(args[0], self.list_commands(context))
            raise click.UsageError(f"{error.message} {hint}".rstrip(), context) from error


def _hint(name: str, commands: list[str]) -> str:
    """What somebody may have meant by a command that there is not."""
    package = name.partition(":")[0]
    for provider in discover():
        if provider.name == package and provider.missing():
            return f'It needs {", ".join(provider.missing())}: pip install "alphavel[{package}]"'
    nearest = difflib.get_close_matches(name, commands, n=1)
    if nearest:
        return f"Did you mean `{nearest[0]}`?"
    if ":" in name and package in _extras():
        return f'Is its package installed? pip install "alphavel[{package}]"'
    return "`alpha list` shows all commands."


def _extras() -> list[str]:
    """What can be installed besides, as this package's own metadata says: it knows no other package."""
    try:
        return importlib.metadata.metadata("alphavel").get_all("Provides-Extra") or []
    except importlib.metadata.PackageNotFoundError:  # it runs from a folder
        return []


def _provided() -> dict[str, click.Command]:
    commands = {}
    for provider in discover():
        if not provider.missing():
            for command in provider.commands():
                commands[command.name or ""] = command
    return commands


def _version(context: click.Context, _: click.Parameter, wanted: bool) -> None:
    if wanted:
        from alphavel.foundation import __version__

        click.echo(f"alphavel {__version__}")
        context.exit()


@click.group(cls=_Alpha, context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--config", "folder", type=click.Path(exists=True, file_okay=False), help="Folder of the configuration files.")
@click.option("--version", is_flag=True, is_eager=True, expose_value=False, callback=_version, help="Show the version.")
def alpha(folder: str | None) -> None:
    """Realtime broadcasting and circuit breakers for Flask."""
    if folder is not None:
        os.environ[FOLDER_VARIABLE] = folder  # for worker processes too


@alpha.command("list")
@click.pass_context
def list_(context: click.Context) -> None:
    """Show all commands, by package."""
    from alphavel.foundation import __version__

    _show("alphavel.foundation", __version__, [alpha.commands[name] for name in sorted(alpha.commands)])
    for provider in discover():
        missing = provider.missing()
        if missing:
            click.secho(f"\n{provider.package}", bold=True, nl=False)
            click.echo(f'  cannot be used: install {", ".join(missing)} (pip install "alphavel[{provider.name}]")')
            continue
        module = __import__(provider.package, fromlist=["__version__"])
        _show(provider.package, getattr(module, "__version__", ""), list(provider.commands()))


def _show(package: str, version: str, commands: list[click.Command]) -> None:
    click.secho(f"\n{package} {version}", bold=True)
    for command in commands:
        click.echo(f"  {click.style(f'{command.name:<28}', fg='green')} {command.get_short_help_str(80)}")


@alpha.command("vendor:publish")
@click.option("--tag", help="What to write; without it the tags are listed.")
@click.option("--force", is_flag=True, help="Overwrite files that differ.")
def vendor_publish(tag: str | None, force: bool) -> None:
    """Write a package's files, such as its configuration, into this folder to edit them."""
    tags = {name: list(files) for provider in discover() for name, files in provider.publishes().items()}
    if tag is None:
        for name in sorted(tags):
            click.echo(f"{name:<28} {', '.join(target for _, target in tags[name])}")
        return
    if tag not in tags:
        raise click.UsageError(f"There is no tag {tag!r}. There are: {', '.join(sorted(tags)) or 'none'}.")
    kept = False
    for source, target in tags[tag]:
        try:
            outcome, difference = publish(source, target, force)
        except OSError as error:
            raise click.ClickException(f"Cannot write {target}: {error.strerror or error}.") from error
        click.echo(difference, nl=False)
        click.echo(f"{outcome.value:<12}{target}")
        kept = kept or outcome is Outcome.KEPT
    if kept:
        click.echo("Files that differ were left as they are; --force overwrites them.", err=True)
        sys.exit(1)


@alpha.command("doctor")
@click.option("--json", "as_json", is_flag=True, help="One JSON object for programs to read.")
def doctor(as_json: bool) -> None:
    """Check limits, ports, configuration, keys, Redis, clock and versions; exit code 1 where something is wrong."""
    from alphavel.foundation.doctor import run

    sys.exit(0 if run(as_json) else 1)


_formatwarning = warnings.formatwarning


def _format_warning(
    message: Warning | str, category: type[Warning], filename: str, lineno: int, line: str | None = None
) -> str:
    if issubclass(category, ProviderWarning):
        return f"alpha: {message}\n"  # for people: where in our code it was noticed helps nobody
    return _formatwarning(message, category, filename, lineno, line)


def main() -> None:
    """Run `alpha`; a wrong configuration ends it with one line and exit code 1."""
    warnings.formatwarning = _format_warning
    sys.path.insert(0, os.getcwd())  # `--app shop:app` means the module in this folder, as with flask and gunicorn
    try:
        alpha(prog_name="alpha")
    except ConfigurationError as error:
        click.echo(f"alpha: {error}", err=True)
        sys.exit(1)
