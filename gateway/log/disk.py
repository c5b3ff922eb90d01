"""The seam between the log and the file system: every operation that durability depends on goes through it.

Tests put a simulated disk here that crashes, tears and fails. Nothing else in the log opens a journal file. Errors are
OSError, as the system gives them; what they mean is decided by who calls.
"""

from __future__ import annotations

import errno
import fcntl
import os
from pathlib import Path
from typing import Protocol


class Disk(Protocol):
    """What the log asks of a file system. All calls block; handles are small integers, valid until `close`."""

    def make_directory(self, path: Path) -> None:
        """Make a directory and its missing parents; done if it exists."""

    def list_directory(self, path: Path) -> list[str]:
        """Names in a directory, sorted; empty if there is no such directory."""

    def sync_directory(self, path: Path) -> None:
        """Make names that were created, renamed or removed in `path` durable."""

    def open(self, path: Path, *, create: bool = False) -> int:
        """Open for reading and writing. `create`: make an empty file if there is none; else FileNotFoundError."""

    def close(self, handle: int) -> None:
        """Give a handle back."""

    def size(self, handle: int) -> int:
        """Length of the file in bytes."""

    def allocate(self, handle: int, size: int) -> None:
        """Make the file `size` bytes long and reserve room for all of them. ENOSPC: there is none."""

    def read(self, handle: int, size: int, offset: int) -> bytes:
        """Read up to `size` bytes; fewer only at the end of the file."""

    def write(self, handle: int, data: bytes, offset: int) -> int:
        """Write at `offset`. Returns how many bytes were taken: fewer than all is a failure to the caller."""

    def sync_data(self, handle: int) -> None:
        """Make written bytes durable. After an error it is unknown which of them are."""

    def sync(self, handle: int) -> None:
        """Make written bytes and the file's length durable."""

    def forget(self, handle: int, offset: int = 0, size: int = 0) -> None:
        """Drop what the page cache holds of the file, so that reads show what the medium holds."""

    def rename(self, source: Path, target: Path) -> None:
        """Give a file another name in the same directory, replacing what has it."""

    def remove(self, path: Path) -> None:
        """Remove a file's name."""

    def lock(self, path: Path) -> int:
        """Take an exclusive lock that ends with the process or with `close`. Raises: BlockingIOError if it is taken."""


class OsDisk:
    """The file system of this machine."""

    def make_directory(self, path: Path) -> None:
        path.mkdir(parents=True, exist_ok=True)

    def list_directory(self, path: Path) -> list[str]:
        try:
            return sorted(entry.name for entry in path.iterdir())
        except FileNotFoundError:
            return []

    def sync_directory(self, path: Path) -> None:
        handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)

    def open(self, path: Path, *, create: bool = False) -> int:
        return os.open(path, os.O_RDWR | os.O_CLOEXEC | (os.O_CREAT if create else 0), 0o640)

    def close(self, handle: int) -> None:
        os.close(handle)

    def size(self, handle: int) -> int:
        return os.fstat(handle).st_size

    def allocate(self, handle: int, size: int) -> None:
        try:
            os.posix_fallocate(handle, 0, size)
        except OSError as error:
            # File systems without fallocate (some FUSE, NFS) get a file with holes: there ENOSPC may come with a write.
            if error.errno not in (errno.EOPNOTSUPP, errno.EINVAL):
                raise
            os.ftruncate(handle, size)

    def read(self, handle: int, size: int, offset: int) -> bytes:
        data = os.pread(handle, size, offset)
        if len(data) == size or not data:
            return data
        parts = [data]
        taken = len(data)
        while taken < size and (data := os.pread(handle, size - taken, offset + taken)):
            parts.append(data)
            taken += len(data)
        return b"".join(parts)

    def write(self, handle: int, data: bytes, offset: int) -> int:
        return os.pwrite(handle, data, offset)

    def sync_data(self, handle: int) -> None:
        os.fdatasync(handle)

    def sync(self, handle: int) -> None:
        os.fsync(handle)

    def forget(self, handle: int, offset: int = 0, size: int = 0) -> None:
        os.posix_fadvise(handle, offset, size, os.POSIX_FADV_DONTNEED)

    def rename(self, source: Path, target: Path) -> None:
        source.rename(target)

    def remove(self, path: Path) -> None:
        path.unlink()

    def lock(self, path: Path) -> int:
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o640)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(handle)
            raise
        return handle
