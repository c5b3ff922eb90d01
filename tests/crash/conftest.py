"""The fixtures of the log's tests."""

from tests.log.conftest import core, disk

__all__ = ["core", "disk"]
