"""`headwater status` and `headwater topics`: what a running gateway says of itself."""

from __future__ import annotations

from typing import Any

import click

from gateway.cli.find import Target, target_options
from gateway.cli.output import counted, print_json, print_table

json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


@click.command()
@target_options(admin=True)
@json_option
def status(target: Target, as_json: bool) -> int:
    """Show how the gateway is doing. Exit code 1 if it has a problem."""
    facts = target.control().get("/admin/status")
    if as_json:
        print_json(facts)
    else:
        _print_status(facts)
    return 1 if facts["problems"] else 0


@click.command()
@target_options(admin=True)
@json_option
def topics(target: Target, as_json: bool) -> None:
    """List the topics with their entries and the backlog of their subscriptions."""
    described = target.control().get("/admin/topics")
    if as_json:
        print_json(described)
        return
    rows = []
    for topic in described:
        if topic["partitions"]:
            rows.append([topic["name"], counted(topic["partitions"], "partition"), ""])
            continue
        subscriptions = ", ".join(
            f"{item['name']} ({item['type']}, backlog {item['backlog_entries']})"
            for item in topic["subscriptions"]
            if item["durable"]
        )
        rows.append([topic["name"], f"{topic['entries']} entries", subscriptions])
    print_table(["TOPIC", "STORED", "SUBSCRIPTIONS"], rows)


def _print_status(facts: dict[str, Any]) -> None:
    log = facts["log"]
    click.echo(f"gateway {facts['gateway']}, version {facts['version']}, up {facts['uptime_seconds']:.0f} s")
    click.echo("  listens  " + "  ".join(f"{what} {where}" for what, where in facts["addresses"].items()))
    for problem in facts["problems"]:
        click.echo(f"  PROBLEM  {problem}")
    click.echo(
        f"  log      {log['state']}: {log['entries']} entries in {log['groups']} commits since the start, "
        f"{log['bytes_written'] / 2**20:.1f} MiB written"
    )
    causes = sorted(log["commit_causes"].items(), key=lambda item: -item[1])[:3]
    if causes:
        click.echo("  commits  because of " + ", ".join(f"{cause} ({count})" for cause, count in causes))
    click.echo(f"  clock    {facts['clock']}")
    for sensor in facts["sensors"]:
        error = f", last error: {sensor['last_error']}" if sensor["last_error"] else ""
        click.echo(f"  sensor   {sensor['name']} ({sensor['type']}): {counted(sensor['messages'], 'message')}{error}")
    for item in facts["replication"]:
        state = "connected" if item["connected"] else f"not connected: {item['last_error'] or 'connecting'}"
        click.echo(f"  cloud    {item['name']}: {state}, {item['lag_entries']} entries behind")
        for alarm in item["alarms"]:
            click.echo(f"  ALARM    {alarm}")
