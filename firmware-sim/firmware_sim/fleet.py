"""Several devices in one process, each with a thread and a connection of its own."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from firmware_sim.link import Ledger, Link
from firmware_sim.reading import Device


@dataclass(frozen=True, slots=True)
class FleetStatus:
    """What a fleet has done so far."""

    published: int
    """Handed to connections, duplicates that faults make included."""
    acknowledged: int
    connects: int
    running: int
    """Devices that still have something to send."""
    last_celsius: dict[str, float] = field(default_factory=dict)
    """By device."""


class Fleet:
    """Runs devices against one gateway. Start and stop once."""

    def __init__(
        self,
        devices: Sequence[Device],
        host: str,
        port: int,
        *,
        interval_s: float = 1.0,
        in_flight_max: int = 20,
        ledger: Ledger | None = None,
        count: int | None = None,
    ) -> None:
        """`interval_s` is real time between two readings of a device, 0: as fast as acknowledgements come.

        `count` ends each device after so many intervals; None: only the device's own end does.
        """
        self._devices = devices
        self._interval_s = interval_s
        self._count = count
        self._last_celsius: dict[str, float] = {}
        self._stop = threading.Event()
        self._end = 0.0
        self._links = [
            Link(host, port, device.name, in_flight_max=in_flight_max, ledger=ledger, stop=self._stop)
            for device in devices
        ]
        self._failure: BaseException | None = None
        # Waited for instead of the threads: Python 3.11 takes a thread for ended when Ctrl-C interrupts its `join`.
        self._done = [threading.Event() for _ in devices]
        self._threads = [
            threading.Thread(target=self._run, args=arguments, name=arguments[0].name, daemon=True)
            for arguments in zip(devices, self._links, self._done, strict=True)
        ]

    def start(self) -> None:
        """Let all devices send."""
        for thread in self._threads:
            thread.start()

    def status(self) -> FleetStatus:
        """What was done so far."""
        return FleetStatus(
            published=sum(link.published for link in self._links),
            acknowledged=sum(link.acknowledged for link in self._links),
            connects=sum(link.connects for link in self._links),
            running=sum(not done.is_set() for done in self._done),
            last_celsius=dict(self._last_celsius),
        )

    def wait(self, timeout_s: float | None = None, *, each: Callable[[FleetStatus], None] | None = None) -> FleetStatus:
        """Wait until all devices are done and acknowledged, or the time is over; call `each` about once a second."""
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        while True:
            running = next((done for done in self._done if not done.is_set()), None)
            left = 1.0 if deadline is None else min(1.0, deadline - time.monotonic())
            if running is None or left <= 0:
                return self.status()
            running.wait(left)
            if each is not None:
                each(self.status())

    def stop(self, *, grace_s: float = 5.0) -> FleetStatus:
        """Send nothing more, wait up to `grace_s` seconds for acknowledgements, and disconnect.

        Raises what a device's thread died of, after everything is closed.
        """
        self._end = time.monotonic() + grace_s
        self._stop.set()
        for done in self._done:
            done.wait()
        if self._failure is not None:
            raise self._failure
        return self.status()

    def _run(self, device: Device, link: Link, done: threading.Event) -> None:
        try:
            with link:
                self._send(device, link)
                link.flush()
                if self._stop.is_set():
                    link.flush(self._end)
        except Exception as error:
            # Handed to whoever stops the fleet: a thread has nobody else to tell.
            self._failure = error
            self._stop.set()
        finally:
            done.set()

    def _send(self, device: Device, link: Link) -> None:
        due = time.monotonic()
        for index, readings in enumerate(device.readings()):
            if index == self._count or not link.wait(due):
                return
            due += self._interval_s
            for reading in readings:
                if not link.publish(device.topic, reading.payload(device.name)):
                    return
                self._last_celsius[device.name] = reading.celsius
