"""`headwater run`."""

from __future__ import annotations

from pathlib import Path

import click

from gateway.cli.find import DEFAULT_CONFIG


@click.command()
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False), default=DEFAULT_CONFIG)
def run(file: Path) -> int:
    """Run the gateway that FILE describes, in the foreground, until SIGTERM or Ctrl-C.

    Without FILE: /etc/headwater/headwater.yaml. Prints one line `ready pulsar=HOST:PORT http=HOST:PORT …` when it
    serves. Text for people goes to standard error; HEADWATER_LOG sets its level (DEBUG, INFO, WARNING).
    """
    from gateway import daemon

    return daemon.run(file)
