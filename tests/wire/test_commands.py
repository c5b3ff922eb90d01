"""The table of commands against the protocol's own numbers."""

from __future__ import annotations

import _pulsar
import pytest

from gateway.wire.commands import FIELD_OF_TYPE, AccessMode, AckType, BaseCommand, CommandType


def test_every_command_has_its_field() -> None:
    """Types, fields of BaseCommand and their numbers are one list: a command is found by its type."""
    fields = BaseCommand.DESCRIPTOR.fields_by_name
    assert set(FIELD_OF_TYPE) == set(map(int, CommandType))
    for kind, name in FIELD_OF_TYPE.items():
        assert fields[name].number == kind
    assert len(fields) == len(FIELD_OF_TYPE) + 1


@pytest.mark.parametrize("kind", list(CommandType), ids=lambda kind: kind.name)
def test_commands_are_named_for_what_they_hold(kind: CommandType) -> None:
    """SEND_RECEIPT holds a CommandSendReceipt: a slip in the table would put one command's bytes into another."""
    holds = BaseCommand.DESCRIPTOR.fields_by_name[FIELD_OF_TYPE[kind]].message_type.name
    short = {
        "CommandPartitionedTopicMetadata": "PARTITIONED_METADATA",
        "CommandPartitionedTopicMetadataResponse": "PARTITIONED_METADATA_RESPONSE",
        "CommandLookupTopic": "LOOKUP",
        "CommandLookupTopicResponse": "LOOKUP_RESPONSE",
    }.get(holds)
    words = "".join(f"_{letter}" if letter.isupper() else letter for letter in holds.removeprefix("Command"))
    assert kind.name == (short or words.strip("_").upper())


def test_numbers_are_those_of_the_official_client() -> None:
    """Enumerations that stand in commands as integers mean what Pulsar's client means by them."""
    assert int(_pulsar.ProducerAccessMode.Exclusive) == AccessMode.exclusive
    assert int(_pulsar.ProducerAccessMode.WaitForExclusive) == AccessMode.wait_for_exclusive
    assert int(_pulsar.ProducerAccessMode.ExclusiveWithFencing) == AccessMode.exclusive_with_fencing
    assert (AckType.individual, AckType.cumulative) == (0, 1)


def test_minus_one_travels_as_the_largest_unsigned_number() -> None:
    """Ids are unsigned on the wire; the earliest position is -1 to those who speak it."""
    command = BaseCommand(type=CommandType.SEEK, seek={"consumer_id": 0, "request_id": 0})
    command.seek.message_id.ledgerId = command.seek.message_id.entryId = 2**64 - 1
    assert BaseCommand.FromString(command.SerializeToString()).seek.message_id.ledgerId == 2**64 - 1
