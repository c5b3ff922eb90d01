"""The demo's live view: one screen that shows where every reading is."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

BAR_WIDTH = 40
DEVICES_SHOWN = 8


@dataclass(slots=True)
class Scene:
    """What there is to see at one moment."""

    seconds: float = 0.0
    events: int = 0
    """MQTT messages made durable."""
    events_per_s: float = 0.0
    entries: int = 0
    commits: int = 0
    written_bytes: int = 0
    lag: int = 0
    lag_max: int = 0
    confirmed: int = 0
    connected: bool = False
    cut: bool = False
    cloud: str = ""
    values: dict[str, float] = field(default_factory=dict)
    """Last reading by device, in °C."""
    addresses: dict[str, str] = field(default_factory=dict)


class View:
    """Draws scenes until it is closed."""

    def __init__(self) -> None:
        self._live = Live(console=Console(), refresh_per_second=4, transient=False)

    def __enter__(self) -> View:
        self._live.start()
        return self

    def __exit__(self, *_: Any) -> None:
        self._live.stop()

    def show(self, scene: Scene) -> None:
        self._live.update(_draw(scene))


def _draw(scene: Scene) -> Panel:
    if scene.cut:
        link = Text("✂ the link to the cloud is cut: readings are kept at the edge", style="bold red")
    elif not scene.connected:
        link = Text("… connecting to the cloud", style="yellow")
    elif scene.lag:
        link = Text(f"▲ catching up, {scene.lag} entries to go", style="yellow")
    else:
        link = Text("● all of it is at the cloud", style="bold green")
    filled = 0 if not scene.lag_max else min(BAR_WIDTH, round(BAR_WIDTH * scene.lag / scene.lag_max))
    flow = Table.grid(padding=(0, 2))
    flow.add_row(
        "devices", f"MQTT {scene.addresses.get('mqtt', '')}", f"{scene.events} events, {scene.events_per_s:.0f}/s"
    )
    flow.add_row(
        "log",
        f"{scene.entries} entries",
        f"{scene.commits} commits, {scene.written_bytes / 1024:.0f} KiB written",
    )
    flow.add_row("clients", f"pulsar://{scene.addresses.get('pulsar', '')}", "any Pulsar client may read along")
    flow.add_row("backlog", "█" * filled + "·" * (BAR_WIDTH - filled), f"{scene.lag} entries, at most {scene.lag_max}")
    flow.add_row("cloud", scene.cloud, f"{scene.confirmed} entries confirmed")
    values = Table.grid(padding=(0, 2))
    for device, celsius in sorted(scene.values.items())[:DEVICES_SHOWN]:
        values.add_row(device, f"{celsius:6.2f} °C")
    return Panel(
        Group(link, Text(), flow, Text(), values),
        title=f"Headwater demo, {scene.seconds:.0f} s",
        subtitle="Ctrl-C ends it",
        width=100,
    )
