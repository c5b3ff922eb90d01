"""What the daemon is told, as frozen data: built from the YAML file, free of pydantic and YAML. Pure."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

from gateway.broker.settings import BrokerSettings
from gateway.log import LogSettings

if TYPE_CHECKING:
    from gateway.replication.settings import ReplicationSettings


class Address(NamedTuple):
    """Where to listen."""

    host: str
    port: int
    """0: the system chooses a free one."""

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


@dataclass(frozen=True, slots=True)
class Settings:
    """A whole gateway."""

    gateway_id: str
    log: LogSettings
    broker: BrokerSettings
    pulsar: Address
    http: Address
    default_namespace: str
    """`tenant/namespace` of the file's short topic names."""
    sensors: dict[str, tuple[Any, ...]] = field(default_factory=dict)
    """By connector type: that connector's own settings, one per sensor."""
    replications: tuple[ReplicationSettings, ...] = ()
