"""One producer of one topic, as the broker sees it: its name, and which of its entries are duplicates. Pure."""

from __future__ import annotations

from typing import Protocol


class ProducerOwner(Protocol):
    """Whoever holds producers: a connection, or the client inside this process."""

    async def is_alive(self) -> bool:
        """Whether the peer still answers. May take as long as a probe of a half-open connection takes."""

    def producer_closed(self, producer: Producer) -> None:
        """The broker took the producer away: the peer is told to create it again.

        Its entries in flight are not answered.
        """


class Producer:
    """Who publishes, and the last sequence id that was stored for that name."""

    __slots__ = ("closed", "epoch", "generated_name", "last_sequence_id", "name", "owner", "producer_id")

    def __init__(
        self,
        owner: ProducerOwner,
        *,
        producer_id: int,
        name: str,
        generated_name: bool,
        epoch: int,
        last_sequence_id: int,
    ) -> None:
        self.owner = owner
        self.producer_id = producer_id
        """The connection's number for it; unique there only."""
        self.name = name
        self.generated_name = generated_name
        """Whether the broker invented the name: then nothing of it is remembered across a restart."""
        self.epoch = epoch
        """Counts the creations under this name; a higher one succeeds a lower one."""
        self.last_sequence_id = last_sequence_id
        """The highest that was appended, durable or about to be; -1: none. Only ever rises."""
        self.closed = False


def deduplication_key(sequence_id: int, highest_sequence_id: int | None) -> int:
    """The id by which an entry is known. Batches of Java carry both, those of C++ and Go only `sequence_id`.

    Adding the number of messages to `sequence_id` would be wrong: older C++ clients put the *last* id of a batch there.
    """
    if highest_sequence_id is not None and highest_sequence_id >= sequence_id:
        return highest_sequence_id
    return sequence_id
