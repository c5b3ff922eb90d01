"""`headwater log`: what to do about a log that does not start."""

from __future__ import annotations

import asyncio
from dataclasses import asdict
from typing import Any

import click

from gateway.cli.find import Target, target_options
from gateway.cli.output import print_json
from gateway.cli.status import json_option
from gateway.clock import SystemClock
from gateway.errors import GatewayError
from gateway.log import Log


@click.group()
def log() -> None:
    """The durable log of a gateway that is stopped."""


@log.command()
@target_options()
@click.option("--yes", is_flag=True, help="Do not ask.")
@json_option
def repair(target: Target, yes: bool, as_json: bool) -> None:
    """Let a log start that refuses to, because state records (topics, cursors) are unreadable.

    What can be read is kept; what can't is given up, and named. Entries are never changed. The gateway must be stopped.
    Take a copy of the data directory first: what is given up here may be readable on another day.
    """
    settings = target.settings()
    if settings is None:
        raise GatewayError("there is no configuration to find the log by", hint="give --config FILE")
    if not yes:
        click.confirm(f"give up what is unreadable in {settings.log.data_dir}?", abort=True)
    report = asyncio.run(_open_and_close(settings.log))
    if as_json:
        print_json(report)
        return
    for damage in report["damages"]:
        click.echo(f"given up: {damage['path']} at {damage['offset']}: {damage['reason']}")
    click.echo(f"{report['groups']} groups in {report['segments']} segments are readable; the gateway can be started")


async def _open_and_close(settings: Any) -> dict[str, Any]:
    opened = await Log.open(settings, SystemClock(), accept_damage=True)
    report = asdict(opened.recovery)
    await opened.close()
    return report
