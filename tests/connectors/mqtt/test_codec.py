"""MQTT packets, byte by byte."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from connectors.mqtt import codec
from connectors.mqtt.codec import ConnectRefused, MqttError, ReturnCode, Will
from gateway.limits import MQTT_PACKET_SIZE_MAX
from tests.connectors.mqtt import packets


def decode(data: bytes) -> tuple[list[codec.Publish], int]:
    publishes: list[codec.Publish] = []
    return publishes, codec.decode_publishes(data, 0, publishes, set())


def body(packet: bytes) -> bytes:
    bounds = codec.packet_bounds(packet, 0)
    assert bounds is not None
    assert bounds[1] == len(packet)
    return packet[bounds[0] :]


def test_codec_decodes_a_run_of_publishes_and_stops_at_another_packet() -> None:
    """Topic, payload and packet id come out as sent; a QoS 0 message has no packet id; the PINGREQ behind is left."""
    data = (
        packets.publish("a/b", b"one", packet_id=1)
        + packets.publish("a/b", b"", packet_id=None)
        + packets.publish("ä", b"three", packet_id=65_535, dup=True, retain=True)
    )
    publishes, offset = decode(data + packets.PINGREQ)
    assert publishes == [(b"a/b", b"one", b"\0\1"), (b"a/b", b"", b""), ("ä".encode(), b"three", b"\xff\xff")]
    assert offset == len(data)


@pytest.mark.parametrize("size", [0, 1, 120, 121, 122, 123, 127, 128, 16_370, 16_380, 16_384, 70_000, 1_000_000])
def test_codec_decodes_publishes_of_each_length_of_the_length(size: int) -> None:
    """The remaining length may have one to four bytes; the packet behind is found at the right place."""
    first, second = packets.publish("t", bytes(size)), packets.publish("u", b"next", packet_id=2)
    publishes, offset = decode(first + second)
    assert [(topic, len(payload)) for topic, payload, _ in publishes] == [(b"t", size), (b"u", 4)]
    assert offset == len(first + second)


def test_codec_leaves_each_incomplete_publish_alone() -> None:
    """However a packet is cut, nothing is decoded, nothing raised, and nothing consumed."""
    data = packets.publish("topic", bytes(300))
    for cut in range(len(data)):
        assert decode(data[:cut]) == ([], 0)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (packets.publish("t", packet_id=0), "packet id 0"),
        (b"\x34" + packets.publish("t")[1:], "QoS 2"),
        (b"\x36" + packets.publish("t")[1:], "QoS 3"),
        (packets.publish("t", packet_id=None, dup=True), "duplicate"),
        (packets.publish(""), "empty"),
        (packets.publish("a/+"), "wildcard"),
        (packets.publish("#"), "wildcard"),
        (packets.publish("a\0b"), "U\\+0000"),
        (packets.publish(b"\xff"), "UTF-8"),
        (packets.publish(b"\xed\xa0\x80"), "UTF-8"),
        (b"\x30\x00", "shorter"),
        (b"\x30\x01\x00", "shorter"),
        (b"\x30\x04\x00\x05ab", "shorter"),
        (b"\x32\x03\x00\x01t", "shorter"),
        (b"\x32\x04\x00\x01t\x01", "shorter"),
        (b"\x30\xff\xff\xff\x7f", "more than"),
        (b"\x30\xff\xff\xff\xff", "bytes"),
    ],
)
def test_codec_refuses_a_malformed_publish(data: bytes, reason: str) -> None:
    """What MQTT 3.1.1 forbids raises, also with a well-formed packet behind it, and what came before is kept."""
    good = packets.publish("t", b"good")
    publishes: list[codec.Publish] = []
    with pytest.raises(MqttError, match=reason):
        codec.decode_publishes(good + data + good, 0, publishes, set())
    assert publishes == [(b"t", b"good", b"\0\1")]


def test_codec_bounds_a_packet_by_its_header_alone() -> None:
    """A packet that is too large is refused before it is received."""
    with pytest.raises(MqttError, match="more than"):
        codec.packet_bounds(b"\x30" + bytes([0x81, 0x80, 0xC0, 0x00]), 0)
    limit = packets.packet(0x30, bytes(MQTT_PACKET_SIZE_MAX))
    assert codec.packet_bounds(limit[:4], 0) == (4, len(limit))


def test_codec_refuses_a_length_of_five_bytes() -> None:
    """A remaining length has at most four bytes."""
    with pytest.raises(MqttError, match="four bytes"):
        codec.packet_bounds(b"\x30\x80\x80\x80\x80\x01", 0)


def test_codec_forgets_known_topics_at_the_bound() -> None:
    """A device that makes up topics does not grow the memory of the gateway."""
    known: set[bytes] = set()
    for index in range(3 * codec.TOPICS_KNOWN_MAX):
        codec.decode_publishes(packets.publish(str(index)), 0, [], known)
        assert len(known) <= codec.TOPICS_KNOWN_MAX


@given(st.binary(max_size=200), st.sets(st.binary(max_size=4)))
def test_codec_raises_nothing_but_its_error_for_garbage(data: bytes, known: set[bytes]) -> None:
    """Any bytes are decoded, left as incomplete, or refused."""
    for decoder in (
        lambda: decode(b"\x32" + data),
        lambda: codec.packet_bounds(data, 0),
        lambda: codec.decode_connect(0, data),
        lambda: codec.decode_connect(0, b"\0\4MQTT\4" + data),
        lambda: codec.decode_subscribe(2, data),
        lambda: codec.decode_unsubscribe(2, data),
        lambda: codec.decode_packet_id(2, data, expected_flags=2),
    ):
        with contextlib.suppress(MqttError):
            decoder()


def test_codec_decodes_a_connect_with_everything_in_it() -> None:
    """All fields of a CONNECT arrive."""
    data = packets.connect(
        "äöü", clean_session=False, keep_alive_s=61, will=("w/t", b"gone"), will_qos=1, user_name="u", password=b"\0p"
    )
    connect = codec.decode_connect(0, body(data))
    assert connect == codec.Connect("äöü", False, 61, Will(b"w/t", b"gone", 1), "u", b"\0p")


@pytest.mark.parametrize(
    ("packet", "return_code"),
    [
        (packets.connect(level=5), ReturnCode.unacceptable_protocol_version),
        (packets.connect(level=3, name=b"MQIsdp"), ReturnCode.unacceptable_protocol_version),
        (packets.connect(level=0x84), ReturnCode.unacceptable_protocol_version),
    ],
)
def test_codec_refuses_other_versions_with_a_return_code(packet: bytes, return_code: ReturnCode) -> None:
    """A device of another version is told so in its CONNACK."""
    with pytest.raises(ConnectRefused) as caught:
        codec.decode_connect(0, body(packet))
    assert caught.value.return_code == return_code


@pytest.mark.parametrize(
    "packet",
    [
        packets.connect(flags=0x01),
        packets.connect(flags=0x08),
        packets.connect(flags=0x20),
        packets.connect(will=("t", b""), will_qos=3),
        packets.connect(password=b"p"),
        packets.connect(will=("", b"")),
        packets.connect(will=("a/#", b"")),
        packets.connect("a\0b"),
        packets.connect(b"\xff"),
        packets.connect(name=b"HTTP"),
        packets.packet(0x10, body(packets.connect()) + b"x"),
        packets.packet(0x10, body(packets.connect())[:-1]),
        packets.packet(0x10, b""),
    ],
)
def test_codec_refuses_a_malformed_connect(packet: bytes) -> None:
    """What contradicts itself, is too short or too long is an error without an answer."""
    with pytest.raises(MqttError) as caught:
        codec.decode_connect(0, body(packet))
    assert not isinstance(caught.value, ConnectRefused)


def test_codec_refuses_reserved_connect_flags_in_the_header() -> None:
    """The lower half of a CONNECT's first byte is reserved."""
    with pytest.raises(MqttError):
        codec.decode_connect(1, body(packets.connect()))


@pytest.mark.parametrize(
    ("flags", "data"),
    [
        (0, packets.subscribe("a")),
        (2, packets.subscribe("a", packet_id=0)),
        (2, packets.subscribe()),
        (2, packets.subscribe("")),
        (2, packets.subscribe("a/#/b")),
        (2, packets.subscribe("a+")),
        (2, packets.packet(0x82, b"\0\1" + packets.text("a"))),
        (2, packets.packet(0x82, b"\0\1" + packets.text("a") + b"\3")),
        (2, packets.packet(0x82, b"\0")),
    ],
)
def test_codec_refuses_a_malformed_subscribe(flags: int, data: bytes) -> None:
    """Filters are validated though nothing is sent to devices yet."""
    with pytest.raises(MqttError):
        codec.decode_subscribe(flags, body(data))


def test_codec_encodes_a_suback_of_any_length() -> None:
    """More than 125 filters need a longer remaining length."""
    codes = bytes([0x80]) * 200
    assert codec.encode_suback(b"\0\7", codes) == packets.packet(0x90, b"\0\7" + codes)
