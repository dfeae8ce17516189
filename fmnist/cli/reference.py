"""Writes the reference pages: `python -m fmnist.cli.reference docs`."""

import inspect
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

from cyclopts import App

from fmnist.cli.app import app
from fmnist.cli.command import docstring
from fmnist.configure import all_settings
from fmnist.errors import ExitCode
from fmnist.settings import RENAMED, sections

_GENERATED = "<!-- Written by `python -m fmnist.cli.reference docs`; do not edit. -->\n"


def pages() -> Mapping[str, str]:
    """The text of each page by its file name."""
    written = {"settings.md": _settings_page(), "commands.md": _commands_page()}
    return {name: "\n".join(lines) + "\n" for name, lines in written.items()}


def _settings_page() -> Iterator[str]:
    yield "# Settings\n"
    yield _GENERATED
    yield (
        "Each setting is an option of `flows/train.py` and of every `fmnist` command "
        "(`--training.epochs 20`), an\nenvironment variable (`FMNIST_TRAINING__EPOCHS=20`) or a line "
        "of that form in a file `.env` in the current\nfolder; the first of these that is given "
        "counts. `python flows/train.py --show-settings` prints the values\nin use and where each "
        "comes from. Lists are written with commas.\n"
    )
    renamed = ", ".join(f"`training.{old}` (now `{new}`)" for old, new in RENAMED.items())
    yield f"Earlier names are still accepted: {renamed}."
    for name, section in sections().items():
        yield f"\n## {name}\n\n{(section.__doc__ or '').strip()}\n"
        yield "| Setting | Default | Allowed | Environment variable | Meaning |"
        yield "|---|---|---|---|---|"
        for setting in all_settings():
            if setting.name.startswith(f"{name}."):
                default = setting.default.replace(",", ", ").replace("://", "&#58;//")
                yield (
                    f"| `{setting.name}` | {default} | {setting.allowed} | `{setting.variable}` | "
                    f"{setting.meaning} |"
                )
    yield "\n## Exit codes\n\nOf `flows/train.py` and of every `fmnist` command.\n"
    yield "| Code | Meaning |\n|---|---|"
    for code in ExitCode:
        yield f"| {int(code)} | {code.meaning} |"


def _commands_page() -> Iterator[str]:
    yield "# Commands\n"
    yield _GENERATED
    yield (
        "`fmnist COMMAND --help` explains a command and the settings it uses. Every command takes "
        "every\n[setting](settings.md) as an option, such as `--store.url s3://models/fmnist`, and "
        "`--json`, which prints\none JSON document for programs. The last line on standard output "
        "sums a command up; the exit code is one\nof [these](settings.md#exit-codes).\n"
    )
    yield "| Command | What it does |\n|---|---|"
    commands = {name: app[name] for name in app if not name.startswith("-")}
    for name, command in commands.items():
        usage = " ".join([f"fmnist {name}", *_arguments(command)])
        yield f"| `{usage}` | {docstring(command.default_command).splitlines()[0]} |"
    for name, command in commands.items():
        _, *more = docstring(command.default_command).split("\n\n")
        if more:
            yield f"\n## fmnist {name}\n"
            yield from more
    yield "\n## Completion in the shell\n"
    yield (
        "`fmnist --install-completion` installs completion of commands and options for the shell it "
        "is run from:\nbash, zsh or fish. For another one, name it: `fmnist --install-completion "
        "--shell zsh`. It writes a script\ninto your home folder and, for bash and zsh, a line into "
        "the shell's start-up file that loads it; open a new\nshell afterwards. In zsh, completion "
        "must be switched on (`autoload -U compinit; compinit` in `~/.zshrc`). Run\nit again after an "
        "update, to learn about new options."
    )


def _arguments(command: App) -> Iterator[str]:
    """How a command's own arguments are written; optional ones in brackets."""
    for argument in command.assemble_argument_collection():
        name = argument.name
        if "." in name or name == "--json":
            continue
        if argument.field_info.kind is inspect.Parameter.POSITIONAL_ONLY:
            written = name.upper()
        else:
            value = argument.parameter.metavar or "RUN"
            written = name if argument.hint is bool else f"{name} {value}"
        yield written if argument.required else f"[{written}]"


if __name__ == "__main__":
    for file_name, text in pages().items():
        (Path(sys.argv[1]) / file_name).write_text(text)
