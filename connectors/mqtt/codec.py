"""MQTT 3.1.1 packets that a server reads, as bytes and as values.

    byte 0        type << 4 | flags
    byte 1..4     remaining length, 7 bits a byte, least significant first, high bit: one more follows
    ...           variable header and payload, `remaining length` bytes

    PUBLISH       u16 length, topic | u16 packet id (QoS > 0) | payload to the end

Pure: no sockets, no clocks, no memory of a conversation (that is `session`). PUBLISH has a path of its own, because
nearly every packet is one: a run of them is decoded by one call into tuples, and a topic's UTF-8 is checked only when
it is new.

Source: MQTT 3.1.1, sections 2 and 3.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum

from connectors.mqtt.topics import check_filter
from gateway.errors import ProtocolError
from gateway.limits import MQTT_PACKET_SIZE_MAX

TOPICS_KNOWN_MAX = 1_024
"""Topic names remembered as checked, per connection; at the bound all are forgotten and checked again."""
PUBLISH = 0x30
CONNACK_ACCEPTED = b"\x20\x02\x00\x00"
CONNACK_SESSION_PRESENT = b"\x20\x02\x01\x00"
PUBACK_HEAD = b"\x40\x02"
"""In front of each packet id: `PUBACK_HEAD.join([b"", id, id, …])` is the PUBACKs of all."""
PUBCOMP_HEAD = b"\x70\x02"
SUBACK = 0x90
SUBSCRIPTION_REFUSED = 0x80
UNSUBACK_HEAD = b"\xb0\x02"
PINGRESP = b"\xd0\x00"

Publish = tuple[bytes, bytes, bytes]
"""Topic (checked UTF-8), payload, packet id (2 bytes; empty: QoS 0)."""


class PacketType(IntEnum):
    """Source: MQTT 3.1.1, table 2.1."""

    connect = 1
    connack = 2
    publish = 3
    puback = 4
    pubrec = 5
    pubrel = 6
    pubcomp = 7
    subscribe = 8
    suback = 9
    unsubscribe = 10
    unsuback = 11
    pingreq = 12
    pingresp = 13
    disconnect = 14


class ReturnCode(IntEnum):
    """What a CONNACK says. Source: MQTT 3.1.1, table 3.1."""

    accepted = 0
    unacceptable_protocol_version = 1
    identifier_rejected = 2
    server_unavailable = 3
    bad_user_name_or_password = 4
    not_authorized = 5


class MqttError(ProtocolError):
    """A device sent what MQTT 3.1.1 does not allow, or what this listener does not serve: its connection is closed."""


class ConnectRefused(MqttError):
    """A CONNECT that is answered before the connection is closed. `return_code` says with what."""

    def __init__(self, message: str, return_code: ReturnCode) -> None:
        super().__init__(message)
        self.return_code = return_code


@dataclass(frozen=True, slots=True)
class Will:
    """What a device wants published when it is lost."""

    topic: bytes
    payload: bytes
    qos: int


@dataclass(frozen=True, slots=True)
class Connect:
    """The first packet of a connection."""

    client_id: str
    """Empty: the device leaves the name to the server."""
    clean_session: bool
    keep_alive_s: int
    """0: the device promises nothing."""
    will: Will | None
    user_name: str | None
    password: bytes | None


def decode_publishes(data: bytes, offset: int, publishes: list[Publish], known: set[bytes]) -> int:
    """Decode the run of PUBLISH packets at `offset`, append them, and return the offset behind the last whole one.

    Stops at another packet type and at an incomplete packet. `known` holds the topic names already checked on this
    connection, and grows up to TOPICS_KNOWN_MAX.
    Raises: MqttError; what was decoded before is in `publishes` all the same.
    """
    end = len(data)
    append = publishes.append
    try:
        while True:
            first = data[offset]
            if first & 0xF0 != PUBLISH:
                return offset
            length = data[offset + 1]
            start = offset + 2
            if length > 127:
                more = data[start]
                start += 1
                length += (more << 7) - 128
                if more > 127:
                    length, start = _long_length(data, offset)
            stop = start + length
            if stop > end:
                return offset
            name = start + 2
            body = name + (data[start] << 8 | data[start + 1]) if length > 1 else end + 1
            topic = data[name:body]
            if first & 0x06 == 0x02:
                body += 2
                packet_id = data[body - 2 : body]
                if packet_id == b"\0\0":
                    raise MqttError("PUBLISH with packet id 0")
            elif first & 0x0E == 0:
                packet_id = b""
            else:
                raise MqttError(_bad_publish_flags(first))
            if body > stop:
                raise MqttError("PUBLISH is shorter than its topic says")
            if topic not in known:
                check_topic_name(topic)
                if len(known) >= TOPICS_KNOWN_MAX:
                    known.clear()
                known.add(topic)
            append((topic, data[body:stop], packet_id))
            offset = stop
    except IndexError:
        # The header itself is incomplete: a device may send one byte at a time.
        return offset


def _bad_publish_flags(first: int) -> str:
    if first & 0x06 == 0x06:
        return "PUBLISH with QoS 3"
    if first & 0x06 == 0x04:
        return "PUBLISH with QoS 2 is not supported: publish with QoS 1"
    return "PUBLISH with QoS 0 marked as a duplicate"


def _long_length(data: bytes, offset: int) -> tuple[int, int]:
    """Read a remaining length of three or four bytes: the length, and where the body starts."""
    length = 0
    for index in range(4):
        byte = data[offset + 1 + index]
        length |= (byte & 0x7F) << (7 * index)
        if length > MQTT_PACKET_SIZE_MAX:
            raise MqttError(f"packet of more than {MQTT_PACKET_SIZE_MAX} bytes")
        if byte < 0x80:
            return length, offset + 2 + index
    raise MqttError("remaining length has more than four bytes")


def packet_bounds(data: bytes, offset: int) -> tuple[int, int] | None:
    """Where the body of the packet at `offset` starts and stops (perhaps behind the end of `data`).

    None: its header is incomplete. Raises: MqttError.
    """
    try:
        length, start = _long_length(data, offset)
    except IndexError:
        return None
    return start, start + length


def check_topic_name(topic: bytes) -> str:
    """Decode the name of a topic that is published to. Raises: MqttError."""
    text = _decode_text(topic)
    if not text or "+" in text or "#" in text:
        raise MqttError("PUBLISH to an empty topic or to one with a wildcard")
    return text


def _decode_text(data: bytes) -> str:
    """Decode UTF-8 as MQTT restricts it: no surrogates (Python refuses those), no U+0000. Source: section 1.5.3."""
    try:
        text = data.decode()
    except UnicodeDecodeError as error:
        raise MqttError("a text is not UTF-8") from error
    if "\0" in text:
        raise MqttError("a text contains U+0000")
    return text


class _Body:
    """The variable header and payload of one packet, read field by field."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._offset = 0

    def take(self, size: int) -> bytes:
        offset = self._offset
        self._offset = offset + size
        if self._offset > len(self._data):
            raise MqttError("a packet is shorter than its fields")
        return self._data[offset : self._offset]

    def byte(self) -> int:
        return self.take(1)[0]

    def number(self) -> int:
        return int.from_bytes(self.take(2))

    def binary(self) -> bytes:
        return self.take(self.number())

    def text(self) -> str:
        return _decode_text(self.binary())

    @property
    def left(self) -> int:
        return len(self._data) - self._offset

    def end(self) -> None:
        if self.left:
            raise MqttError("a packet is longer than its fields")


def decode_connect(flags: int, data: bytes) -> Connect:
    """Read a CONNECT's body. Raises: ConnectRefused, MqttError."""
    if flags:
        raise MqttError("CONNECT with reserved flags")
    body = _Body(data)
    name, level = body.binary(), body.byte()
    if name not in (b"MQTT", b"MQIsdp"):
        raise MqttError("CONNECT of another protocol")
    if (name, level) != (b"MQTT", 4):
        raise ConnectRefused(
            "only MQTT 3.1.1 is served, the device speaks another version", ReturnCode.unacceptable_protocol_version
        )
    connect_flags = body.byte()
    has_will = bool(connect_flags & 0x04)
    will_qos = connect_flags >> 3 & 0x03
    if connect_flags & 0x01:
        raise MqttError("CONNECT with the reserved connect flag")
    if will_qos == 3 or (connect_flags & 0x38 and not has_will):
        raise MqttError("CONNECT with will flags that contradict each other")
    if connect_flags & 0xC0 == 0x40:
        raise MqttError("CONNECT with a password and no user name")
    keep_alive_s = body.number()
    client_id = body.text()
    will = None
    if has_will:
        topic = body.binary()
        check_topic_name(topic)
        will = Will(topic, body.binary(), will_qos)
    user_name = body.text() if connect_flags & 0x80 else None
    password = body.binary() if connect_flags & 0x40 else None
    body.end()
    return Connect(client_id, bool(connect_flags & 0x02), keep_alive_s, will, user_name, password)


def decode_packet_id(flags: int, data: bytes, *, expected_flags: int) -> bytes:
    """Read a body that is a packet id and nothing else. Raises: MqttError."""
    if flags != expected_flags or len(data) != 2 or data == b"\0\0":
        raise MqttError("a packet that should hold a packet id does not")
    return data


def decode_subscribe(flags: int, data: bytes) -> tuple[bytes, list[tuple[str, int]]]:
    """Read a SUBSCRIBE's body: packet id, and filters with their QoS. Raises: MqttError."""
    body = _Body(data)
    packet_id = _request_id(flags, body, "SUBSCRIBE")
    filters = []
    for text in _filters(body, "SUBSCRIBE"):
        qos = body.byte()
        if qos > 2:
            raise MqttError("SUBSCRIBE with QoS 3 or reserved bits")
        filters.append((text, qos))
    return packet_id, filters


def decode_unsubscribe(flags: int, data: bytes) -> tuple[bytes, list[str]]:
    """Read an UNSUBSCRIBE's body: packet id and filters. Raises: MqttError."""
    body = _Body(data)
    packet_id = _request_id(flags, body, "UNSUBSCRIBE")
    return packet_id, list(_filters(body, "UNSUBSCRIBE"))


def _request_id(flags: int, body: _Body, name: str) -> bytes:
    packet_id = body.take(2)
    if flags != 0x02 or packet_id == b"\0\0":
        raise MqttError(f"{name} with wrong flags or packet id 0")
    return packet_id


def _filters(body: _Body, name: str) -> Iterator[str]:
    """Yield the filters of a SUBSCRIBE or UNSUBSCRIBE; between two the caller reads what belongs to the first."""
    if not body.left:
        raise MqttError(f"{name} without a topic filter")
    while body.left:
        text = body.text()
        if reason := check_filter(text):
            raise MqttError(f"{name}: {reason}")
        yield text


def encode_connack_refusal(return_code: ReturnCode) -> bytes:
    """A CONNACK that says no; the connection is closed behind it."""
    return bytes((0x20, 0x02, 0x00, return_code))


def encode_suback(packet_id: bytes, codes: bytes) -> bytes:
    """A SUBACK with one return code for each filter asked for."""
    return bytes([SUBACK]) + _encode_length(2 + len(codes)) + packet_id + codes


def _encode_length(length: int) -> bytes:
    encoded = bytearray()
    while length > 0x7F:
        encoded.append(length & 0x7F | 0x80)
        length >>= 7
    encoded.append(length)
    return bytes(encoded)
