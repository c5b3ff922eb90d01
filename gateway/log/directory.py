"""The data directory: where everything of the log lies, who owns it, and which one it is.

lock           held by the running gateway
identity       16 random bytes made with the directory, in hexadecimal, with their CRC32C
journal/       slot-00000, slot-00001, ...: the ring of segments
torn/          copies of torn tails that recovery cut off
views.sqlite3  the views
"""

from __future__ import annotations

from pathlib import Path

from gateway.errors import LogDamaged, LogError, LogLocked
from gateway.log.disk import Disk
from gateway.log.format import ID_SIZE, crc32c

IDENTITY_NAME = "identity"
IDENTITY_SIZE_MAX = 256
_IDENTITY_PREFIX = "headwater 1"


def journal_directory(data_dir: Path) -> Path:
    return data_dir / "journal"


def torn_directory(data_dir: Path) -> Path:
    return data_dir / "torn"


def views_file(data_dir: Path) -> Path:
    return data_dir / "views.sqlite3"


def make_directories(disk: Disk, data_dir: Path) -> None:
    """Make what is missing, durably. Raises: LogError."""
    try:
        for path in (journal_directory(data_dir), torn_directory(data_dir)):
            disk.make_directory(path)
        disk.sync_directory(data_dir.parent)
        disk.sync_directory(data_dir)
    except OSError as error:
        raise LogError(
            f"the data directory {data_dir} can't be made: {error.strerror}",
            hint="it must be writable by the user that runs the gateway",
        ) from error


def lock_directory(disk: Disk, data_dir: Path) -> int:
    """Own the data directory until the handle is closed. Raises: LogLocked, LogError."""
    try:
        return disk.lock(data_dir / "lock")
    except BlockingIOError as error:
        raise LogLocked(
            f"the data directory {data_dir} belongs to a running gateway",
            hint="stop it, or give this one another data_dir",
        ) from error
    except OSError as error:
        raise LogError(f"the data directory {data_dir} can't be locked: {error.strerror}") from error


def read_identity(disk: Disk, data_dir: Path) -> bytes | None:
    """The directory's id; None if it was never written. Raises: LogDamaged."""
    path = data_dir / IDENTITY_NAME
    try:
        handle = disk.open(path)
    except FileNotFoundError:
        return None
    try:
        text = disk.read(handle, IDENTITY_SIZE_MAX, 0).decode("ascii", "replace")
    finally:
        disk.close(handle)
    directory_id = _parse_identity(text)
    if directory_id is None:
        raise LogDamaged(
            f"{path} is damaged",
            path=path,
            hint=f"remove it: segments in {journal_directory(data_dir)} repeat what it says",
        )
    return directory_id


def write_identity(disk: Disk, data_dir: Path, directory_id: bytes) -> None:
    """Name the directory, durably: afterwards the whole name is there, before that none. Raises: OSError."""
    part = data_dir / f"{IDENTITY_NAME}.part"
    text = f"{_IDENTITY_PREFIX} {directory_id.hex()} {crc32c(directory_id):08x}\n".encode()
    handle = disk.open(part, create=True)
    try:
        if disk.write(handle, text, 0) != len(text):
            raise OSError(f"a short write to {part}")
        disk.sync(handle)
    finally:
        disk.close(handle)
    disk.rename(part, data_dir / IDENTITY_NAME)
    disk.sync_directory(data_dir)


def _parse_identity(text: str) -> bytes | None:
    head, _, rest = text.partition("\n")
    if rest or not head.startswith(_IDENTITY_PREFIX + " "):
        return None
    words = head.removeprefix(_IDENTITY_PREFIX).split()
    if len(words) != 2:
        return None
    try:
        directory_id, crc = bytes.fromhex(words[0]), int(words[1], 16)
    except ValueError:
        return None
    return directory_id if len(directory_id) == ID_SIZE and crc32c(directory_id) == crc else None
