"""`headwater check`."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import click

from gateway.cli.output import counted, print_json
from gateway.errors import ConfigError


@click.command()
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False), required=False)
@click.option("--schema", is_flag=True, help="Print the file's JSON Schema, for editors.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def check(file: Path | None, schema: bool, as_json: bool) -> int:
    """Check a configuration FILE without starting anything. Exit code 2 if it has mistakes."""
    if schema:
        from gateway.config.check import schema as file_schema

        print_json(file_schema())
        return 0
    if file is None:
        raise click.UsageError("give a FILE to check, or --schema")
    from gateway.config.load import describe

    try:
        described = describe(file)
    except ConfigError as error:
        if not as_json:
            raise
        print_json({"ok": False, "mistakes": [asdict(mistake) for mistake in error.mistakes]})
        return 2
    if as_json:
        print_json({"ok": True, "settings": described})
    else:
        sensors = sum(len(group) for group in described["sensors"].values())
        click.echo(
            f"{file} is in order: gateway {described['gateway_id']}, {counted(sensors, 'sensor')}, "
            f"{counted(len(described['replications']), 'replication')}"
        )
    return 0
