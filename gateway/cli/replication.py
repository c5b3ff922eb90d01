"""`headwater replication`: how far the cloud is behind, and what stands in its way."""

from __future__ import annotations

import click

from gateway.cli.find import Target, target_options
from gateway.cli.output import print_json, print_table
from gateway.cli.status import json_option


@click.group()
def replication() -> None:
    """Replication to the cloud."""


@replication.command()
@target_options(admin=True)
@json_option
def status(target: Target, as_json: bool) -> None:
    """Show each topic's way to the cloud."""
    described = target.control().get("/admin/replication")
    if as_json:
        print_json(described)
        return
    if not described:
        click.echo("no replication is configured")
    for item in described:
        state = "connected" if item["connected"] else f"not connected: {item['last_error'] or 'connecting'}"
        click.echo(f"{item['name']} to {item['service_url']}: {state}")
        for alarm in item["alarms"]:
            click.echo(f"  ALARM {alarm}")
        print_table(
            ["TOPIC", "REMOTE TOPIC", "PHASE", "CONFIRMED", "LAG"],
            [
                [
                    topic["topic"],
                    topic["remote_topic"],
                    topic["phase"],
                    topic["confirmed_entry_id"],
                    topic["lag_entries"],
                ]
                for topic in item["topics"]
            ],
        )


@replication.command()
@click.argument("name")
@target_options(admin=True)
@json_option
def doctor(target: Target, name: str, as_json: bool) -> int:
    """Examine the way to the cloud NAME.

    Is it reachable, and is the remote namespace set up so that nothing is lost or doubled? Where `admin_url` is set and
    the token has the rights, what is missing is created and set. Exit code 1 if something is wrong.
    """
    rows = target.control().post(f"/admin/replication/{name}/doctor")
    if as_json:
        print_json(rows)
    else:
        for row in rows:
            mark = {True: "ok ", False: "BAD", None: "?  "}[row["ok"]]
            click.echo(f"{mark} {row['check']}: {row['finding']}")
            if row["fix"]:
                click.echo(f"      {row['fix']}")
    return 1 if any(row["ok"] is False for row in rows) else 0
