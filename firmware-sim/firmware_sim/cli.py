"""The command line: `python -m firmware_sim thermometer` and `python -m firmware_sim replay FILE`.

Exit code 0: everything that was sent was acknowledged, also after Ctrl-C; 1: it was not; 2: a wrong argument.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from firmware_sim.faults import FAULTS
from firmware_sim.fleet import Fleet, FleetStatus
from firmware_sim.link import IN_FLIGHT_MAX, Ledger
from firmware_sim.reading import Device
from firmware_sim.replay import ReplayDevice
from firmware_sim.thermometer import START_MS, ThermometerDevice


def main(arguments: Sequence[str] | None = None, *, program: str = "firmware_sim") -> int:
    """Run the command line and return the exit code."""
    parser = build_parser(program)
    options = parser.parse_args(arguments)
    try:
        devices = options.build(options)
        ledger = None if options.acked is None else Ledger(options.acked)
    except (OSError, ValueError) as error:
        parser.exit(2, f"{program}: {error}\n")
    fleet = Fleet(
        devices,
        options.host,
        options.port,
        interval_s=options.interval,
        in_flight_max=options.in_flight,
        ledger=ledger,
        count=options.count,
    )
    return _run(fleet, options, devices)


def _run(fleet: Fleet, options: argparse.Namespace, devices: Sequence[Device]) -> int:
    started = time.monotonic()
    fleet.start()
    # Ctrl-C is the usual end of a device without `--count`.
    with contextlib.suppress(KeyboardInterrupt):
        fleet.wait(options.seconds, each=None if options.json else _show)
    try:
        status = fleet.stop(grace_s=options.grace)
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("stopped without waiting for acknowledgements", file=sys.stderr)
        return 1
    _print_summary(status, seconds=time.monotonic() - started, devices=len(devices), as_json=options.json)
    return 0 if status.acknowledged == status.published else 1


def build_parser(program: str = "firmware_sim") -> argparse.ArgumentParser:
    """The parser; every subcommand's namespace has `build`, which makes its devices."""
    parser = argparse.ArgumentParser(prog=program, description="Simulated devices that publish over MQTT with QoS 1.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    thermometer = commands.add_parser("thermometer", help="thermometers that obey physics, with named faults")
    thermometer.add_argument("--devices", type=_positive, default=1, help="how many (default: 1)")
    thermometer.add_argument("--seed", default="0", help="the same seed gives the same readings (default: 0)")
    thermometer.add_argument(
        "--fault", action="append", default=[], choices=[*FAULTS, "all"], help="may be given several times"
    )
    thermometer.add_argument("--topic", default="boiler/{device}/temp", help="default: boiler/{device}/temp")
    thermometer.add_argument("--name", default="thermometer-{n}", help="client ids; {n} counts from 1")
    thermometer.add_argument(
        "--step", type=_not_negative, default=None, metavar="S", help="simulated seconds per reading (--interval)"
    )
    thermometer.add_argument(
        "--start", type=_time, default=START_MS, metavar="TIME", help="first time reported: ISO 8601, or now"
    )
    _add_common(thermometer, interval=1.0)
    thermometer.set_defaults(build=_thermometers)

    replay = commands.add_parser("replay", help="send the rows of a CSV file with the header timestamp,value")
    replay.add_argument("file", type=Path)
    replay.add_argument("--topic", default="replay/{device}/temp", help="default: replay/{device}/temp")
    replay.add_argument("--name", default="replay", help="client id (default: replay)")
    _add_common(replay, interval=0.0)
    replay.set_defaults(build=lambda options: [ReplayDevice(options.file, name=options.name, topic=options.topic)])
    return parser


def _add_common(parser: argparse.ArgumentParser, *, interval: float) -> None:
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=_positive, default=1883)
    pace = parser.add_mutually_exclusive_group()
    pace.add_argument(
        "--interval",
        type=_not_negative,
        default=interval,
        metavar="S",
        help=f"seconds between two readings of a device; 0: as fast as acknowledgements come (default: {interval:g})",
    )
    pace.add_argument(
        "--rate", dest="interval", type=lambda text: 1 / _greater_than_zero(text), help="readings a second instead"
    )
    parser.add_argument("--count", type=_positive, default=None, help="readings of each device, then end")
    parser.add_argument("--for", dest="seconds", type=_not_negative, default=None, metavar="S", help="then end")
    parser.add_argument(
        "--in-flight", type=_in_flight, default=20, help="unacknowledged messages of a device at most (default: 20)"
    )
    parser.add_argument("--acked", type=Path, metavar="FILE", help="append each acknowledged payload as a line")
    parser.add_argument(
        "--grace", type=_not_negative, default=5.0, metavar="S", help="wait so long for the last ones (default: 5)"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object at the end and nothing else")


def _thermometers(options: argparse.Namespace) -> list[Device]:
    names = [options.name.replace("{n}", str(index + 1)) for index in range(options.devices)]
    if len(set(names)) < len(names):
        raise ValueError("several devices need {n} in --name: client ids must differ")
    return [
        ThermometerDevice(
            name,
            options.topic.replace("{device}", name),
            seed=options.seed,
            faults=FAULTS if "all" in options.fault else options.fault,
            step_s=options.step or options.interval or 1.0,
            start_ms=options.start,
        )
        for name in names
    ]


def _show(status: FleetStatus) -> None:
    values = " ".join(f"{name} {celsius:.2f}" for name, celsius in sorted(status.last_celsius.items())[:4])
    print(f"published {status.published}, acknowledged {status.acknowledged}   {values}", flush=True)


def _print_summary(status: FleetStatus, *, seconds: float, devices: int, as_json: bool) -> None:
    if as_json:
        summary = {
            "devices": devices,
            "published": status.published,
            "acknowledged": status.acknowledged,
            "connects": status.connects,
            "seconds": round(seconds, 3),
        }
        print(json.dumps(summary))
        return
    print(f"{devices} devices published {status.published} messages, {status.acknowledged} were acknowledged")
    if status.connects == 0:
        print("no gateway accepted a connection: is one listening there?", file=sys.stderr)


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError("must be at least 1")
    return number


def _in_flight(text: str) -> int:
    number = _positive(text)
    if number > IN_FLIGHT_MAX:
        raise argparse.ArgumentTypeError(f"must be at most {IN_FLIGHT_MAX}")
    return number


def _not_negative(text: str) -> float:
    number = float(text)
    if not 0 <= number < float("inf"):
        raise argparse.ArgumentTypeError("must be a number of at least 0")
    return number


def _greater_than_zero(text: str) -> float:
    number = _not_negative(text)
    if number == 0:
        raise argparse.ArgumentTypeError("must be greater than 0")
    return number


def _time(text: str) -> int:
    moment = datetime.now(UTC) if text == "now" else datetime.fromisoformat(text)
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return round(moment.timestamp() * 1000)
