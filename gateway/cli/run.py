"""`headwater run`."""

from __future__ import annotations

from pathlib import Path

import click


@click.command()
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
def run(file: Path) -> int:
    """Run the gateway that FILE describes, in the foreground, until SIGTERM or Ctrl-C.

    Prints one line `ready pulsar=HOST:PORT http=HOST:PORT …` when it serves. Text for people goes to standard error; HEADWATER_LOG sets
    its level (DEBUG, INFO, WARNING).
    """
    from gateway import daemon

    return daemon.run(file)
