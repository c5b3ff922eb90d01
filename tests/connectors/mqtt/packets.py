"""What a device sends, built here a second time from MQTT 3.1.1's text, and a device to send it."""

from __future__ import annotations

import asyncio

CONNACK = b"\x20\x02\x00\x00"


def packet(first: int, body: bytes) -> bytes:
    """A packet with its remaining length."""
    length, encoded = len(body), b""
    while True:
        length, low = divmod(length, 128)
        encoded += bytes([low | (0x80 if length else 0)])
        if not length:
            return bytes([first]) + encoded + body


def text(value: str | bytes) -> bytes:
    data = value.encode() if isinstance(value, str) else value
    return len(data).to_bytes(2) + data


def connect(
    client_id: str | bytes = "device",
    *,
    clean_session: bool = True,
    keep_alive_s: int = 0,
    will: tuple[str, bytes] | None = None,
    will_qos: int = 0,
    user_name: str | None = None,
    password: bytes | None = None,
    name: bytes = b"MQTT",
    level: int = 4,
    flags: int = 0,
) -> bytes:
    flags |= 0x02 if clean_session else 0
    body = b""
    if will is not None:
        flags |= 0x04 | will_qos << 3
        body += text(will[0]) + text(will[1])
    if user_name is not None:
        flags |= 0x80
        body += text(user_name)
    if password is not None:
        flags |= 0x40
        body += text(password)
    head = text(name) + bytes([level, flags]) + keep_alive_s.to_bytes(2)
    return packet(0x10, head + text(client_id) + body)


def publish(
    topic: str | bytes, payload: bytes = b"x", *, packet_id: int | None = 1, dup: bool = False, retain: bool = False
) -> bytes:
    """QoS 1; QoS 0 if there is no packet id."""
    first = 0x30 | (0x08 if dup else 0) | (0x01 if retain else 0) | (0x02 if packet_id is not None else 0)
    return packet(first, text(topic) + (packet_id.to_bytes(2) if packet_id is not None else b"") + payload)


def puback(*packet_ids: int) -> bytes:
    return b"".join(b"\x40\x02" + packet_id.to_bytes(2) for packet_id in packet_ids)


def subscribe(*filters: str, packet_id: int = 1) -> bytes:
    return packet(0x82, packet_id.to_bytes(2) + b"".join(text(value) + b"\x00" for value in filters))


def unsubscribe(*filters: str, packet_id: int = 1) -> bytes:
    return packet(0xA2, packet_id.to_bytes(2) + b"".join(map(text, filters)))


PINGREQ = b"\xc0\x00"
PINGRESP = b"\xd0\x00"
DISCONNECT = b"\xe0\x00"


class Device:
    """One connection of a device that can behave badly."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    @classmethod
    async def open(cls, address: str, first: bytes | None = None) -> Device:
        """Connect, and send a CONNECT whose CONNACK is awaited unless `first` is empty."""
        host, _, port = address.rpartition(":")
        device = cls(*await asyncio.open_connection(host.strip("[]"), int(port)))
        if first is None:
            first = connect()
        if first:
            device.send(first)
            assert await device.receive(4) == CONNACK
        return device

    def send(self, data: bytes) -> None:
        self.writer.write(data)

    async def receive(self, size: int) -> bytes:
        return await asyncio.wait_for(self.reader.readexactly(size), 10)

    async def receive_end(self) -> bytes:
        """What is still sent until the gateway closes the connection."""
        try:
            return await asyncio.wait_for(self.reader.read(), 10)
        except ConnectionResetError:
            return b""

    async def close(self) -> None:
        self.writer.close()
        try:
            await self.writer.wait_closed()
        except ConnectionError:
            return
