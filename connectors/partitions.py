"""Which partition of a partitioned topic a message goes to. Pure.

Source: Pulsar's Java client, JavaStringHash and SinglePartitionMessageRouter: the same key meets the same partition as
when a Java or Go producer publishes it.
"""

from __future__ import annotations


def java_string_hash(text: str) -> int:
    """Java's `String.hashCode`, without its sign bit."""
    value = 0
    data = text.encode("utf-16-be", "surrogatepass")
    for index in range(0, len(data), 2):
        value = (31 * value + (data[index] << 8 | data[index + 1])) & 0xFFFFFFFF
    return value & 0x7FFFFFFF


def choose_partition(key: str, partitions: int) -> int:
    """The index, from 0, of the partition for this key."""
    return java_string_hash(key) % partitions
