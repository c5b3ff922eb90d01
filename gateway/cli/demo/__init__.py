"""`headwater demo`: devices, a gateway and a cloud on this machine, and a link between them that breaks on the way."""

from __future__ import annotations

import asyncio
import sys

import click

from gateway.cli.output import print_json


def _seconds(context: click.Context, parameter: click.Parameter, value: str | None) -> float | None:
    from gateway.config.units import parse_duration

    if value is None:
        return None
    try:
        return parse_duration(value if not value.isdigit() else f"{value}s") / 1e9
    except ValueError as error:
        raise click.BadParameter(str(error)) from error


@click.command()
@click.option("--for", "seconds", callback=_seconds, metavar="DURATION", help="End by itself, such as 30s.")
@click.option("--json", "as_json", is_flag=True, help="No terminal view; the last line is one JSON object.")
@click.option("--devices", type=click.IntRange(1, 200), default=6, show_default=True, help="Simulated thermometers.")
@click.option(
    "--rate", type=click.FloatRange(0.1, 1000), default=5.0, show_default=True, help="Readings a second each."
)
@click.option(
    "--cloud-url",
    envvar="HEADWATER_CLOUD_URL",
    metavar="URL",
    help="Use the Pulsar at this service URL as the cloud, not a second gateway.",
)
@click.option(
    "--cloud-admin-url",
    envvar="HEADWATER_CLOUD_ADMIN_URL",
    metavar="URL",
    help="Its admin REST, to set up the demo's namespace.",
)
def demo(
    seconds: float | None,
    as_json: bool,
    devices: int,
    rate: float,
    cloud_url: str | None,
    cloud_admin_url: str | None,
) -> int:
    """Watch readings flow: MQTT devices, the durable log, the cloud, with the cloud cut off for some seconds on the
    way.

    Everything runs on this machine, on free ports, in a temporary folder, and is gone afterwards. Exit code 0 only if
    nothing is missing and nothing is doubled at the cloud.
    """
    from gateway.cli.demo.play import Play, PlaySettings

    settings = PlaySettings(
        seconds=seconds,
        devices=devices,
        rate=rate,
        cloud_url=cloud_url or "",
        cloud_admin_url=cloud_admin_url or "",
        view=not as_json and sys.stdout.isatty(),
    )
    play = Play(settings)
    result = asyncio.run(play.run())
    if as_json:
        print_json(result)
    else:
        click.echo(
            f"{result['entries_edge']} entries at the edge, {result['entries_cloud']} at the cloud: "
            f"{result['missing']} missing, {result['duplicated']} doubled "
            f"(cloud cut off for {result['cut_seconds']:g} s, backlog up to {result['backlog_max']})"
        )
    flowed = result["entries_edge"] > 0 or play.interrupted
    return 0 if flowed and result["missing"] == 0 and result["duplicated"] == 0 else 1
