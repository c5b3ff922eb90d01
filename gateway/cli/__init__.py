"""The command line. A command is imported only when it is called, so that `headwater run` loads nothing of the others.

Exit codes: 0 done; 1 it could not be done, said in one sentence on standard error; 2 a wrong argument or configuration;
130 ended by Ctrl-C.
"""

from __future__ import annotations

import importlib
import os
import sys
from typing import Any, NoReturn

import click

from gateway import __version__
from gateway.errors import ConfigError, GatewayError

COMMANDS = {
    "check": "gateway.cli.check:check",
    "completion": "gateway.cli.completion:completion",
    "consume": "gateway.cli.messages:consume",
    "demo": "gateway.cli.demo:demo",
    "log": "gateway.cli.log:log",
    "produce": "gateway.cli.messages:produce",
    "replication": "gateway.cli.replication:replication",
    "run": "gateway.cli.run:run",
    "sim": "gateway.cli.sim:sim",
    "status": "gateway.cli.status:status",
    "tail": "gateway.cli.messages:tail",
    "topics": "gateway.cli.status:topics",
}
"""Where each command lives."""
EXIT_FAILURE = 1
EXIT_CONFIG = 2
EXIT_INTERRUPTED = 130


class LazyGroup(click.Group):
    """Commands by the module that holds them."""

    def list_commands(self, context: click.Context) -> list[str]:
        return sorted(COMMANDS)

    def get_command(self, context: click.Context, name: str) -> click.Command | None:
        place = COMMANDS.get(name)
        if place is None:
            return None
        module, attribute = place.split(":")
        command: click.Command = getattr(importlib.import_module(module), attribute)
        return command

    def invoke(self, context: click.Context) -> Any:
        try:
            return super().invoke(context)
        except BrokenPipeError:
            # Whoever read our output has enough of it (`| head`): an ordinary end. What is still buffered goes nowhere,
            # so that the interpreter does not complain while it shuts down.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 0


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="headwater")
def cli() -> None:
    """Headwater: an event gateway for small Linux machines at the edge."""


def main(arguments: list[str] | None = None) -> NoReturn:
    """Run the command line and exit. Errors of the world are one sentence and a hint on standard error."""
    try:
        code = cli.main(args=arguments, prog_name="headwater", standalone_mode=False)
    except click.exceptions.Abort:
        sys.exit(EXIT_INTERRUPTED)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except ConfigError as error:
        print(error, file=sys.stderr)
        sys.exit(EXIT_CONFIG)
    except GatewayError as error:
        print(f"headwater: {error}" + (f"\n  hint: {error.hint}" if error.hint else ""), file=sys.stderr)
        sys.exit(EXIT_FAILURE)
    sys.exit(code if isinstance(code, int) else 0)
