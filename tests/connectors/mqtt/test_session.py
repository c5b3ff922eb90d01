"""One device's conversation, without a socket."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from connectors.mqtt.codec import Will
from connectors.mqtt.session import Session, SessionStore, State
from gateway.limits import HANDSHAKE_TIMEOUT_NS, MQTT_PACKET_SIZE_MAX, SECOND
from tests.connectors.mqtt import packets

ACCEPTED = packets.CONNACK
PRESENT = b"\x20\x02\x01\x00"


def make_session(sessions: SessionStore | None = None, *, now_ns: int = 0) -> Session:
    return Session(sessions or SessionStore(), now_ns=now_ns, make_client_id=lambda: "made-up")


def connected(connect: bytes = packets.connect(), *, now_ns: int = 0) -> Session:
    session = make_session(now_ns=now_ns)
    assert session.receive_data(connect, now_ns) == []
    assert session.data_to_send() == ACCEPTED
    return session


def test_session_accepts_a_connect_and_hands_out_messages() -> None:
    """Messages behind CONNECT in one piece are not lost, and nothing is acknowledged by the session itself."""
    session = make_session()
    data = packets.connect("d1") + packets.publish("t", b"1") + packets.publish("t", b"2", packet_id=None)
    assert session.receive_data(data, 0) == [(b"t", b"1", b"\0\1"), (b"t", b"2", b"")]
    assert session.client_id == "d1"
    assert session.data_to_send() == ACCEPTED
    assert session.data_to_send() == b""


@pytest.mark.parametrize("data", [packets.PINGREQ, packets.publish("t"), packets.DISCONNECT, b"GET / HTTP/1.1\r\n\r\n"])
def test_session_refuses_anything_before_connect(data: bytes) -> None:
    """The first packet is CONNECT, or the connection is closed without an answer."""
    session = make_session()
    assert session.receive_data(data, 0) == []
    assert session.closed
    assert session.failure is not None
    assert session.data_to_send() == b""


def test_session_refuses_a_second_connect() -> None:
    """MQTT-3.1.0-2."""
    session = connected()
    session.receive_data(packets.connect(), 0)
    assert session.closed


@pytest.mark.parametrize(
    ("connect", "answer"),
    [
        (packets.connect(level=5), b"\x20\x02\x00\x01"),
        (packets.connect("", clean_session=False), b"\x20\x02\x00\x02"),
        (packets.connect("x" * 256), b"\x20\x02\x00\x02"),
    ],
)
def test_session_answers_a_refused_connect_and_closes(connect: bytes, answer: bytes) -> None:
    """The device learns why, and what it sent behind CONNECT is not taken."""
    session = make_session()
    assert session.receive_data(connect + packets.publish("t"), 0) == []
    assert session.data_to_send() == answer
    assert session.closed


def test_session_makes_up_a_client_id_for_a_device_without_one() -> None:
    """Only for a clean session: MQTT-3.1.3-6 to 8."""
    assert connected(packets.connect("", clean_session=True)).client_id == "made-up"


def test_session_is_present_only_if_it_was_kept() -> None:
    """MQTT-3.2.2-1 to 3: a clean session discards what was there and is never present itself."""
    sessions = SessionStore()
    answers = []
    for clean_session in (False, False, True, False, False, True, True):
        session = make_session(sessions)
        session.receive_data(packets.connect("d", clean_session=clean_session), 0)
        answers.append(session.data_to_send())
    assert answers == [ACCEPTED, PRESENT, ACCEPTED, ACCEPTED, PRESENT, ACCEPTED, ACCEPTED]


def test_session_store_forgets_the_session_unused_for_longest() -> None:
    """Devices that come once and never again do not grow the memory of the gateway."""
    sessions = SessionStore(sessions_max=2)
    for client_id in ("a", "b", "a", "c"):
        sessions.open(client_id, clean_session=False)
    assert sessions.open("a", clean_session=False)
    assert not sessions.open("b", clean_session=False)


def test_session_refuses_subscriptions_one_by_one() -> None:
    """SUBACK 0x80 for each filter; the connection goes on."""
    session = connected()
    session.receive_data(packets.subscribe("a", "b/#", packet_id=7) + packets.unsubscribe("a", packet_id=8), 0)
    assert session.data_to_send() == b"\x90\x04\x00\x07\x80\x80" + b"\xb0\x02\x00\x08"
    assert session.state is State.connected


def test_session_answers_pings_and_leftover_releases() -> None:
    """PUBREL of an exchange begun with another broker gets its PUBCOMP, so that it is not sent for ever."""
    session = connected()
    session.receive_data(packets.PINGREQ + b"\x62\x02\x00\x09", 0)
    assert session.data_to_send() == packets.PINGRESP + b"\x70\x02\x00\x09"


@pytest.mark.parametrize(
    "data",
    [
        b"\x34" + packets.publish("t")[1:],
        b"\x40\x02\x00\x01",
        b"\x50\x02\x00\x01",
        b"\x70\x02\x00\x01",
        b"\x60\x02\x00\x01",
        b"\x62\x02\x00\x00",
        b"\x20\x02\x00\x00",
        b"\x90\x03\x00\x01\x00",
        b"\xb0\x02\x00\x01",
        b"\xd0\x00",
        b"\xc1\x00",
        b"\xc0\x01\x00",
        b"\xe1\x00",
        b"\xe0\x01\x00",
        b"\x00\x00",
        b"\xf0\x00",
        b"\x80" + packets.subscribe("a")[1:],
        b"\xa0" + packets.unsubscribe("a")[1:],
    ],
)
def test_session_closes_on_what_a_device_can_not_send(data: bytes) -> None:
    """Reserved bits, QoS 2, a server's packets: closed; what came before counts, and the will is to be published."""
    session = connected(packets.connect(will=("w", b"gone")))
    assert session.receive_data(packets.publish("t", b"before") + data + packets.publish("t", b"after"), 0) == [
        (b"t", b"before", b"\0\1")
    ]
    assert session.closed
    assert session.failure is not None
    assert session.will == Will(b"w", b"gone", 0)


def test_session_forgets_the_will_on_disconnect() -> None:
    """DISCONNECT is the graceful end; whatever follows is ignored."""
    session = connected(packets.connect(will=("w", b"gone")))
    assert session.receive_data(packets.DISCONNECT + packets.publish("t") + b"\xff\xff", 0) == []
    assert session.closed
    assert session.failure is None
    assert session.will is None


def test_session_fails_after_one_and_a_half_keep_alives() -> None:
    """Any packet counts as a sign of life; the limit is exact."""
    session = connected(packets.connect(keep_alive_s=10))
    session.tick(15 * SECOND - 1)
    assert not session.closed
    session.receive_data(packets.PINGREQ, 14 * SECOND)
    session.tick(29 * SECOND - 1)
    assert not session.closed
    session.tick(29 * SECOND)
    assert session.closed


def test_session_without_keep_alive_may_be_silent_for_ever() -> None:
    """Keep-alive 0 turns the mechanism off."""
    session = connected()
    session.tick(10**18)
    assert not session.closed


def test_session_does_not_count_silence_while_nobody_reads() -> None:
    """A device is not blamed for what the gateway did not read."""
    session = connected(packets.connect(keep_alive_s=10))
    session.postpone(100 * SECOND)
    session.tick(115 * SECOND - 1)
    assert not session.closed


def test_session_waits_for_connect_a_limited_time() -> None:
    """A half-open connection is closed, also if it dribbles bytes."""
    session = make_session()
    session.receive_data(packets.connect()[:5], HANDSHAKE_TIMEOUT_NS - 1)
    session.tick(HANDSHAKE_TIMEOUT_NS - 1)
    assert not session.closed
    session.tick(HANDSHAKE_TIMEOUT_NS)
    assert session.closed


def test_session_takes_a_large_packet_in_single_bytes() -> None:
    """The work grows with the bytes, not with their square, and the packet comes out whole."""
    session = connected()
    payload = bytes(range(256)) * 800
    data = packets.publish("t", payload)
    publishes = []
    for index in range(len(data)):
        publishes += session.receive_data(data[index : index + 1], 0)
    assert publishes == [(b"t", payload, b"\0\1")]
    assert session.partial_size == 0


def test_session_refuses_a_packet_that_is_too_large_at_its_header() -> None:
    """Nothing of it is kept."""
    session = connected()
    session.receive_data(packets.packet(0x30, bytes(MQTT_PACKET_SIZE_MAX + 1))[:5], 0)
    assert session.closed
    assert session.partial_size == 0


client_packets = st.one_of(
    st.builds(
        packets.publish,
        st.sampled_from(["a", "a/b", "ä/ö"]),
        st.binary(max_size=300),
        packet_id=st.one_of(st.none(), st.integers(1, 65_535)),
    ),
    st.sampled_from([packets.PINGREQ, packets.subscribe("a"), packets.unsubscribe("b"), b"\x62\x02\x00\x01"]),
)


@given(st.lists(client_packets, max_size=20), st.lists(st.integers(1, 50), min_size=1))
def test_session_result_does_not_depend_on_how_bytes_arrive(conversation: list[bytes], sizes: list[int]) -> None:
    """TCP may split anywhere: messages and answers are the same as in one piece."""
    data = packets.connect() + b"".join(conversation)
    whole = make_session()
    expected = whole.receive_data(data, 0)
    session = make_session()
    publishes = []
    answers = b""
    offset = step = 0
    while offset < len(data):
        size = sizes[step % len(sizes)]
        publishes += session.receive_data(data[offset : offset + size], 0)
        answers += session.data_to_send()
        offset += size
        step += 1
    assert publishes == expected
    assert answers == whole.data_to_send()
    assert not session.closed


@given(st.lists(st.one_of(client_packets, st.binary(max_size=40)), max_size=10), st.booleans())
def test_session_survives_garbage(pieces: list[bytes], connect_first: bool) -> None:
    """Whatever comes, nothing is raised; once closed, nothing more is taken."""
    session = make_session()
    if connect_first:
        session.receive_data(packets.connect(), 0)
    for piece in pieces:
        was_closed = session.closed
        publishes = session.receive_data(piece, 0)
        assert not (was_closed and publishes)
        assert session.partial_size <= sum(map(len, pieces))
