"""Simulated devices: a thermometer that obeys physics and fails in named ways, and a replay of recorded readings.

It speaks to a gateway over MQTT by paho, as firmware would, and imports nothing of the gateway: a simulator that
shared code with it would agree with its mistakes.

    model (thermometer, replay) ──► faults ──► readings ──► link (paho, QoS 1) ──► gateway
"""

from firmware_sim.faults import FAULTS
from firmware_sim.fleet import Fleet, FleetStatus
from firmware_sim.link import Link
from firmware_sim.reading import Reading
from firmware_sim.replay import ReplayDevice
from firmware_sim.thermometer import Room, Thermometer, ThermometerDevice

__all__ = [
    "FAULTS",
    "Fleet",
    "FleetStatus",
    "Link",
    "Reading",
    "ReplayDevice",
    "Room",
    "Thermometer",
    "ThermometerDevice",
]
