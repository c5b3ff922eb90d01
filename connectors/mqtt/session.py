"""One device's conversation, without a socket: bytes in, publishes out, bytes to send.

    awaiting_connect ──CONNECT──► connected ──DISCONNECT, an error, the line is lost──► closed
            └──────────────────── an error, a refusal ────────────────────────────────────┘

It never acknowledges a PUBLISH by itself: PUBACK means durable, and only the owner knows when that is.

| packet | connected |
|---|---|
| PUBLISH QoS 0, 1 | handed out |
| PUBLISH QoS 2 | an error: the connection is closed |
| PUBREL | PUBCOMP, so that a device that began a QoS 2 exchange elsewhere gets rid of it |
| SUBSCRIBE | SUBACK with 0x80 for each filter: nothing is sent to devices yet |
| UNSUBSCRIBE | UNSUBACK |
| PINGREQ | PINGRESP |
| DISCONNECT | the will is forgotten, closed |
| CONNECT, PUBACK, PUBREC, PUBCOMP, what only a server sends | an error |

Source: MQTT 3.1.1, sections 3 and 4.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from enum import Enum

from connectors.mqtt.codec import (
    CONNACK_ACCEPTED,
    CONNACK_SESSION_PRESENT,
    PINGRESP,
    PUBCOMP_HEAD,
    SUBSCRIPTION_REFUSED,
    UNSUBACK_HEAD,
    Connect,
    ConnectRefused,
    MqttError,
    PacketType,
    Publish,
    ReturnCode,
    Will,
    decode_connect,
    decode_packet_id,
    decode_publishes,
    decode_subscribe,
    decode_unsubscribe,
    encode_connack_refusal,
    encode_suback,
    packet_bounds,
)
from gateway.limits import HANDSHAKE_TIMEOUT_NS, MQTT_SESSIONS_MAX, NAME_LENGTH_MAX, SECOND


class State(Enum):
    """Where a conversation stands."""

    awaiting_connect = "awaiting CONNECT"
    connected = "connected"
    closed = "closed"


class SessionStore:
    """Which client ids have a session that outlives its connection. In memory: after a restart no session is present.

    A session holds nothing yet but its existence, because nothing is sent to devices; saying so truly lets a device
    that trusts "session present" skip its subscriptions only when it may.
    """

    def __init__(self, sessions_max: int = MQTT_SESSIONS_MAX) -> None:
        self._sessions: OrderedDict[str, None] = OrderedDict()
        self._sessions_max = sessions_max

    def open(self, client_id: str, *, clean_session: bool) -> bool:
        """Take or make the session of a device that connects, and return whether it was there before."""
        present = client_id in self._sessions
        if clean_session:
            self._sessions.pop(client_id, None)
            return False
        self._sessions[client_id] = None
        self._sessions.move_to_end(client_id)
        if len(self._sessions) > self._sessions_max:
            self._sessions.popitem(last=False)
        return present


class Session:
    """The server's side of one connection."""

    state: State
    client_id: str
    """The device's name; made up by the server if the device sent none. Empty before CONNECT."""
    will: Will | None
    """To be published if the connection ends now. DISCONNECT deletes it."""
    failure: MqttError | None
    """Why this side closed; None: it did not, or the device said DISCONNECT."""
    deadline_ns: int
    """Monotonic time at which the device has been silent for too long; 0: never."""

    def __init__(self, sessions: SessionStore, *, now_ns: int, make_client_id: Callable[[], str]) -> None:
        self.state = State.awaiting_connect
        self.client_id = ""
        self.will = None
        self.failure = None
        self.deadline_ns = now_ns + HANDSHAKE_TIMEOUT_NS
        self._sessions = sessions
        self._make_client_id = make_client_id
        self._silence_ns_max = 0
        self._partial = bytearray()
        self._wanted = 0
        self._known: set[bytes] = set()
        self._to_send: list[bytes] = []

    def receive_data(self, data: bytes, now_ns: int) -> list[Publish]:
        """Take what the device sent and return the messages in it, in order.

        Never raises for what a device sends: `failure` and `state` tell, and what came before the error is returned.
        """
        publishes: list[Publish] = []
        if self.closed:
            return publishes
        if self._silence_ns_max:
            self.deadline_ns = now_ns + self._silence_ns_max
        if self._partial:
            self._partial += data
            # A large packet in many small pieces is joined once, not once for each piece.
            if len(self._partial) < self._wanted:
                return publishes
            data = bytes(self._partial)
            self._partial = bytearray()
        try:
            offset = self._receive(data, publishes, now_ns)
        except MqttError as error:
            self.fail(error)
        else:
            if offset < len(data) and not self.closed:
                self._keep(data, offset)
        return publishes

    def _receive(self, data: bytes, publishes: list[Publish], now_ns: int) -> int:
        """Work through the whole packets of `data` and return the offset of what is left."""
        end = len(data)
        offset = 0
        while offset < end:
            if self.closed:
                # A DISCONNECT came: what is behind it does not count.
                return end
            if self.state is State.connected:
                offset = decode_publishes(data, offset, publishes, self._known)
                if offset == end:
                    break
            first = data[offset]
            if self.state is State.awaiting_connect and first >> 4 != PacketType.connect:
                raise MqttError("the first packet is not CONNECT")
            bounds = packet_bounds(data, offset)
            if bounds is None or bounds[1] > end:
                break
            self._receive_packet(first, data[bounds[0] : bounds[1]], now_ns)
            offset = bounds[1]
        return offset

    def _receive_packet(self, first: int, body: bytes, now_ns: int) -> None:
        kind, flags = first >> 4, first & 0x0F
        if kind == PacketType.connect and self.state is State.awaiting_connect:
            self._connect(decode_connect(flags, body), now_ns)
        elif kind == PacketType.pingreq:
            _check_empty(flags, body, "PINGREQ")
            self._to_send.append(PINGRESP)
        elif kind == PacketType.disconnect:
            _check_empty(flags, body, "DISCONNECT")
            self.will = None
            self._close()
        elif kind == PacketType.subscribe:
            packet_id, filters = decode_subscribe(flags, body)
            self._to_send.append(encode_suback(packet_id, bytes([SUBSCRIPTION_REFUSED]) * len(filters)))
        elif kind == PacketType.unsubscribe:
            packet_id, _ = decode_unsubscribe(flags, body)
            self._to_send.append(UNSUBACK_HEAD + packet_id)
        elif kind == PacketType.pubrel:
            self._to_send.append(PUBCOMP_HEAD + decode_packet_id(flags, body, expected_flags=0x02))
        else:
            raise MqttError(f"a device can't send packet type {kind} here")

    def _connect(self, connect: Connect, now_ns: int) -> None:
        client_id = connect.client_id
        if not client_id:
            if not connect.clean_session:
                raise ConnectRefused("a session to be kept needs a client id", ReturnCode.identifier_rejected)
            client_id = self._make_client_id()
        if len(client_id.encode()) > NAME_LENGTH_MAX:
            raise ConnectRefused(f"client id of more than {NAME_LENGTH_MAX} bytes", ReturnCode.identifier_rejected)
        present = self._sessions.open(client_id, clean_session=connect.clean_session)
        self.client_id = client_id
        self.will = connect.will
        self._silence_ns_max = connect.keep_alive_s * SECOND * 3 // 2
        self.deadline_ns = now_ns + self._silence_ns_max if self._silence_ns_max else 0
        self.state = State.connected
        self._to_send.append(CONNACK_SESSION_PRESENT if present else CONNACK_ACCEPTED)

    @property
    def closed(self) -> bool:
        """Whether nothing is read from the device any more."""
        return self.state is State.closed

    @property
    def partial_size(self) -> int:
        """Bytes kept of a packet that is not complete yet."""
        return len(self._partial)

    def postpone(self, now_ns: int) -> None:
        """Start the count of silence anew: while nobody reads, a device's silence is not its fault."""
        if self.state is State.awaiting_connect:
            self.deadline_ns = now_ns + HANDSHAKE_TIMEOUT_NS
        elif self._silence_ns_max:
            self.deadline_ns = now_ns + self._silence_ns_max

    def tick(self, now_ns: int) -> None:
        """Fail if the device has been silent for too long."""
        if self.deadline_ns and now_ns >= self.deadline_ns and not self.closed:
            what = "CONNECT" if self.state is State.awaiting_connect else "anything within 1.5 times its keep-alive"
            self.fail(MqttError(f"the device did not send {what}"))

    def fail(self, error: MqttError) -> None:
        """Close because of an error; a refused CONNECT is answered first."""
        if self.closed:
            return
        self.failure = error
        if isinstance(error, ConnectRefused):
            self._to_send.append(encode_connack_refusal(error.return_code))
        self._close()

    def data_to_send(self) -> bytes:
        """Hand out what is to be sent, once."""
        if not self._to_send:
            return b""
        data = b"".join(self._to_send)
        self._to_send.clear()
        return data

    def _keep(self, data: bytes, offset: int) -> None:
        """Keep the incomplete packet at the end, and how much of it is wanted before it is looked at again."""
        self._partial += data[offset:]
        bounds = packet_bounds(data, offset)
        self._wanted = bounds[1] - offset if bounds else 0

    def _close(self) -> None:
        self.state = State.closed
        self.deadline_ns = 0
        self._partial = bytearray()


def _check_empty(flags: int, body: bytes, name: str) -> None:
    if flags or body:
        raise MqttError(f"{name} with reserved flags or a body")
