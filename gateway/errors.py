"""Every error that crosses a seam of the gateway, in one tree.

    GatewayError
    ├── ProtocolError              a peer broke the wire protocol (or we would)
    ├── BrokerError                a request the broker refuses; carries Pulsar's ServerError
    │   ├── TopicNotFound, ProducerBusy, ProducerFenced, ConsumerBusy, NotAllowed, ...
    │   └── StorageUnavailable     the log takes nothing at the moment: retry later
    ├── LogError                   the log on disk
    │   ├── LogFull                the quota is used up; leaves that state by itself
    │   ├── LogFailed              the device failed twice; reads go on
    │   ├── LogDamaged             acknowledged bytes are unreadable
    │   └── LogLocked              another process owns the data directory
    ├── FunctionError
    ├── ConnectorError
    ├── OffloadError
    ├── ReplicationError
    ├── FleetError
    └── ConfigError                file, line, column and hint of one or more mistakes

The world's faults are raised as these; our own bugs are assertions. Facts are attributes, `hint` tells an
operator what to do next. A lower layer's exception is translated once, at the seam, with `from`.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path


class ServerError(IntEnum):
    """Pulsar's error codes. Source: PulsarApi.proto, enum ServerError.

    What each one makes a client do is the reason for choosing it: see `docs/protocol.md`.
    """

    UnknownError = 0
    MetadataError = 1
    PersistenceError = 2
    AuthenticationError = 3
    AuthorizationError = 4
    ConsumerBusy = 5
    ServiceNotReady = 6
    ProducerBlockedQuotaExceededError = 7
    ProducerBlockedQuotaExceededException = 8
    ChecksumError = 9
    UnsupportedVersionError = 10
    TopicNotFound = 11
    SubscriptionNotFound = 12
    ConsumerNotFound = 13
    TooManyRequests = 14
    TopicTerminatedError = 15
    ProducerBusy = 16
    InvalidTopicName = 17
    IncompatibleSchema = 18
    ConsumerAssignError = 19
    TransactionCoordinatorNotFound = 20
    InvalidTxnStatus = 21
    NotAllowedError = 22
    TransactionConflict = 23
    TransactionNotFound = 24
    ProducerFenced = 25


class GatewayError(Exception):
    """Base of all. `hint` is one sentence for the operator, or empty."""

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint


class ProtocolError(GatewayError):
    """Bytes or a conversation that the wire protocol does not allow.

    `local` tells whose fault it is: True when this side was asked to send something illegal.
    """

    def __init__(self, message: str, *, local: bool = False, hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.local = local


class ChecksumMismatch(ProtocolError):
    """The CRC32C of a payload frame is wrong: that frame is refused, the connection goes on."""


class BrokerError(GatewayError):
    """A request that the broker refuses, with the code that tells a client what to do about it."""

    code: ServerError = ServerError.UnknownError

    def __init__(self, message: str, *, code: ServerError | None = None, hint: str = "") -> None:
        super().__init__(message, hint=hint)
        if code is not None:
            self.code = code


class TopicNotFound(BrokerError):
    """No such tenant, namespace or topic (and it may not be created)."""

    code = ServerError.TopicNotFound


class SubscriptionNotFound(BrokerError):
    """No such subscription. Never an answer to SUBSCRIBE: clients would wait for ever."""

    code = ServerError.SubscriptionNotFound


class InvalidTopicName(BrokerError):
    """A name that Pulsar would not accept. NotAllowedError on the wire: code 17 is retried until a time-out."""

    code = ServerError.NotAllowedError


class ProducerBusy(BrokerError):
    """A producer of that name is connected."""

    code = ServerError.ProducerBusy


class ProducerFenced(BrokerError):
    """Another producer took exclusive access of the topic."""

    code = ServerError.ProducerFenced


class ConsumerBusy(BrokerError):
    """The subscription has a consumer that excludes this one."""

    code = ServerError.ConsumerBusy


class NotAllowed(BrokerError):
    """Something that is not supported, or not allowed in this state."""

    code = ServerError.NotAllowedError


class AuthenticationFailed(BrokerError):
    """Who connects could not prove who they are."""

    code = ServerError.AuthenticationError


class StorageUnavailable(BrokerError):
    """The log takes nothing at the moment (full or failed): the sender keeps its message and retries."""

    code = ServerError.ProducerBlockedQuotaExceededError


class LogError(GatewayError):
    """Base of what goes wrong in the durable log."""


class LogFull(LogError):
    """The disk quota is used up. The log leaves this state by itself when there is room again."""


class LogFailed(LogError):
    """The device reported an error from which the log could not move away; reads go on."""


class LogDamaged(LogError):
    """Acknowledged bytes are unreadable. `path` and `offset` (bytes) say where."""

    def __init__(self, message: str, *, path: Path | str = "", offset: int = 0, hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.path = str(path)
        self.offset = offset


class LogLocked(LogError):
    """The data directory belongs to a running gateway."""


class FunctionError(GatewayError):
    """A user's function, or its worker."""


class ConnectorError(GatewayError):
    """A device protocol or an outside system."""


class OffloadError(GatewayError):
    """Tiered storage."""


class ReplicationError(GatewayError):
    """The link to the cloud, or what the cloud answers."""


class FleetError(GatewayError):
    """A release, or the agent that applies it."""


@dataclass(frozen=True, slots=True)
class ConfigMistake:
    """One mistake in a configuration file."""

    message: str
    """What is wrong, in one sentence."""
    file: str
    line: int
    """1-based; 0 where no line is to blame (a missing file)."""
    column: int
    """1-based; 0 like `line`."""
    hint: str = ""
    """What to write instead, or empty."""

    def __str__(self) -> str:
        place = f"{self.file}:{self.line}:{self.column}" if self.line else self.file
        return f"{place}: {self.message}" + (f"\n    hint: {self.hint}" if self.hint else "")


class ConfigError(GatewayError):
    """One or more mistakes in the configuration, each with its place."""

    def __init__(self, mistakes: list[ConfigMistake]) -> None:
        assert mistakes
        super().__init__("\n".join(str(mistake) for mistake in mistakes))
        self.mistakes = mistakes
