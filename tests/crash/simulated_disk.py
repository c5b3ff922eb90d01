"""A file system in memory that loses power, for the log's crash tests.

What a correct log must survive, and what is therefore injected:

- Bytes written and not synced: each 512-byte sector is, after a power cut, as before, as written, or garbage,
  independently of the others. Any sector of the same page of the card as one being written may become garbage too,
  because a card rewrites whole pages.
- A file's new length without its data, or its data without the length, until `sync` returned.
- Names created, renamed or removed and not followed by `sync_directory`: each may be lost by itself.
- A process that is killed: everything written is still in the page cache, seen by reads, and as endangered as before.
- An operation that fails (EIO, ENOSPC, EINTR) or takes only a part of the bytes. A sync that fails leaves each sector
  old or new and forgets that it was not written, so that the next sync returns and reads show bytes that the medium
  doesn't hold, until `forget`. (Seen on ext4.)

What it need not survive, and what is therefore never injected: damage to pages other than those being written; a sync
that returned and did not sync; garbage that happens to carry the right salt.
"""

from __future__ import annotations

import errno
import random
from collections.abc import Callable
from pathlib import Path

SECTOR = 512


class SimulatedFile:
    """An inode: what the medium holds, what the page cache shows, and what lies between."""

    __slots__ = ("cache", "durable", "durable_size", "pending", "size")

    def __init__(self) -> None:
        self.durable = bytearray()
        """The medium. May be longer than the file's durable size."""
        self.cache = bytearray()
        self.pending: list[tuple[int, bytes]] = []
        """Writes since the last sync."""
        self.size = 0
        self.durable_size = 0

    def copy(self) -> SimulatedFile:
        other = SimulatedFile()
        other.durable = bytearray(self.durable)
        other.cache = bytearray(self.cache)
        other.pending = list(self.pending)
        other.size, other.durable_size = self.size, self.durable_size
        return other


class SimulatedDisk:
    """Implements `gateway.log.disk.Disk`. `page` is the card's: what a write in flight may destroy."""

    def __init__(self, chance: random.Random, *, page: int = 4096, stale: list[bytes] | None = None) -> None:
        self.chance = chance
        self.page = page
        self.stale = stale if stale is not None else []
        """Bytes that garbage is sometimes made of, besides random ones."""
        self.files: dict[int, SimulatedFile] = {}
        self.names: dict[Path, int] = {}
        self.durable_names: dict[Path, int] = {}
        self.pending_names: list[tuple[str, Path, Path | None, int]] = []
        self.handles: dict[int, int] = {}
        self.locks: set[Path] = set()
        self.operations = 0
        self.log: list[str] = []
        """Names of the operations so far."""
        self.after: Callable[[str, Path | None], None] | None = None
        """Called when an operation is done: here a test cuts the power."""
        self.fail: Callable[[int, str], OSError | int | None] | None = None
        """Asked before an operation, by its number and name:

        an error to raise; for a write also how many bytes to take.
        """
        self._next = 1
        self._garbage = b""

    # The Disk protocol.

    def make_directory(self, path: Path) -> None:
        self._begin("make_directory")

    def list_directory(self, path: Path) -> list[str]:
        return sorted(name.name for name in self.names if name.parent == path)

    def sync_directory(self, path: Path) -> None:
        self._begin("sync_directory")
        kept = []
        for operation in self.pending_names:
            if operation[1].parent == path:
                self._apply_name(operation, self.durable_names)
            else:
                kept.append(operation)
        self.pending_names = kept
        self._end("sync_directory", path)

    def open(self, path: Path, *, create: bool = False) -> int:
        self._begin("open")
        inode = self.names.get(path)
        if inode is None:
            if not create:
                raise FileNotFoundError(errno.ENOENT, "no such file", str(path))
            inode = self._number()
            self.files[inode] = SimulatedFile()
            self._name(("link", path, None, inode))
        handle = self._number()
        self.handles[handle] = inode
        self._end("open", path)
        return handle

    def close(self, handle: int) -> None:
        inode = self.handles.pop(handle)
        self._begin("close")
        if inode < 0:
            self.locks.clear()

    def size(self, handle: int) -> int:
        return self._file(handle).size

    def allocate(self, handle: int, size: int) -> None:
        self._begin("allocate")
        file = self._file(handle)
        file.size = max(file.size, size)
        file.cache.extend(bytes(file.size - len(file.cache)))
        self._end("allocate", None)

    def read(self, handle: int, size: int, offset: int) -> bytes:
        file = self._file(handle)
        return bytes(file.cache[offset : min(offset + size, file.size)])

    def write(self, handle: int, data: bytes, offset: int) -> int:
        limit = self._begin("write")
        data = bytes(data if limit is None else data[:limit])
        file = self._file(handle)
        end = offset + len(data)
        file.size = max(file.size, end)
        file.cache.extend(bytes(file.size - len(file.cache)))
        file.cache[offset:end] = data
        file.pending.append((offset, data))
        self._end("write", self._path(handle))
        return len(data)

    def sync_data(self, handle: int) -> None:
        self._sync(handle, "sync_data", with_size=False)

    def sync(self, handle: int) -> None:
        self._sync(handle, "sync", with_size=True)

    def forget(self, handle: int, offset: int = 0, size: int = 0) -> None:
        file = self._file(handle)
        if not file.pending:
            self._drop_cache(file)

    def rename(self, source: Path, target: Path) -> None:
        self._begin("rename")
        self._name(("rename", source, target, self.names[source]))
        self._end("rename", target)

    def remove(self, path: Path) -> None:
        self._begin("remove")
        if path not in self.names:
            raise FileNotFoundError(errno.ENOENT, "no such file", str(path))
        self._name(("unlink", path, None, self.names[path]))
        self._end("remove", path)

    def lock(self, path: Path) -> int:
        if path in self.locks:
            raise BlockingIOError
        self.locks.add(path)
        handle = self._number()
        self.handles[handle] = -1
        return handle

    # Crashes.

    def killed(self, chance: random.Random) -> SimulatedDisk:
        """The disk as the next process finds it after this one was killed."""
        other = self._empty_copy(chance)
        other.files = {inode: file.copy() for inode, file in self.files.items()}
        other.names = dict(self.names)
        other.durable_names = dict(self.durable_names)
        other.pending_names = list(self.pending_names)
        return other

    def crashed(self, chance: random.Random) -> SimulatedDisk:
        """The disk as it may be after a power cut at this instant."""
        other = self._empty_copy(chance)
        names = dict(self.durable_names)
        mode = chance.random()
        for operation in self.pending_names:
            if mode < 0.3 or (mode < 0.8 and chance.random() < 0.5):
                self._apply_name(operation, names)
        other.names = names
        other.durable_names = dict(names)
        for inode in set(names.values()):
            other.files[inode] = self._crashed_file(self.files[inode], chance)
        return other

    def _crashed_file(self, file: SimulatedFile, chance: random.Random) -> SimulatedFile:
        other = SimulatedFile()
        other.durable = bytearray(file.durable)
        if file.pending:
            self._settle(other.durable, file.pending, chance, torn=True)
        other.durable_size = file.durable_size if chance.random() < 0.5 else file.size
        other.size = other.durable_size
        self._drop_cache(other)
        return other

    def _settle(
        self, durable: bytearray, pending: list[tuple[int, bytes]], chance: random.Random, *, torn: bool
    ) -> None:
        """Let a part of the pending writes reach the medium."""
        mode = chance.randrange(6)
        if mode == 0:
            return
        end = max(offset + len(data) for offset, data in pending)
        durable.extend(bytes(max(end - len(durable), 0)))
        old = bytes(durable)
        if mode == 1:
            for offset, data in pending:
                durable[offset : offset + len(data)] = data
            return
        cut = chance.randrange(len(pending) + 1)
        share = chance.choice((0.1, 0.5, 0.9))
        garbage_share = chance.choice((0.02, 0.3)) if torn and mode >= 4 else 0.0
        for index, (offset, data) in enumerate(pending):
            if mode == 2 and index >= cut:
                # Nothing of the later writes; of the last one before them a beginning.
                break
            stop = len(data)
            if mode == 2 and index == cut - 1:
                stop = chance.randrange(0, len(data) + 1, SECTOR)
                durable[offset : offset + stop] = data[:stop]
                continue
            for start in range(0, stop, SECTOR):
                if mode == 2 or chance.random() < share:
                    piece = data[start : start + SECTOR]
                    durable[offset + start : offset + start + len(piece)] = piece
        if garbage_share:
            self._spoil(durable, old, pending, chance, garbage_share)

    def _spoil(
        self, durable: bytearray, old: bytes, pending: list[tuple[int, bytes]], chance: random.Random, share: float
    ) -> None:
        """Turn sectors of the pages being written into garbage, or back into what they were."""
        pages = {
            page
            for offset, data in pending
            for page in range(offset // self.page, -(-(offset + len(data)) // self.page))
        }
        for page in pages:
            if chance.random() < 0.5:
                continue
            for start in range(page * self.page, min((page + 1) * self.page, len(durable)), SECTOR):
                luck = chance.random()
                if luck < share:
                    durable[start : start + SECTOR] = self._garbage_sector(chance)
                elif luck < share * 1.5:
                    durable[start : start + SECTOR] = old[start : start + SECTOR]

    def _garbage_sector(self, chance: random.Random) -> bytes:
        if self.stale and chance.random() < 0.5:
            return chance.choice(self.stale)[:SECTOR].ljust(SECTOR, b"\0")
        return chance.randbytes(SECTOR)

    # Inside.

    def _sync(self, handle: int, name: str, *, with_size: bool) -> None:
        file = self._file(handle)
        error = self.fail(self.operations, name) if self.fail else None
        self.operations += 1
        self.log.append(name)
        if isinstance(error, OSError):
            if file.pending:
                self._settle(file.durable, file.pending, self.chance, torn=False)
            file.pending.clear()
            raise error
        for offset, data in file.pending:
            end = offset + len(data)
            file.durable.extend(bytes(max(end - len(file.durable), 0)))
            file.durable[offset:end] = data
        file.pending.clear()
        if with_size:
            file.durable_size = file.size
        self._end(name, self._path(handle))

    def _begin(self, name: str) -> int | None:
        verdict = self.fail(self.operations, name) if self.fail else None
        self.operations += 1
        self.log.append(name)
        if isinstance(verdict, OSError):
            raise verdict
        return verdict

    def _end(self, name: str, path: Path | None) -> None:
        if self.after is not None:
            self.after(name, path)

    def _name(self, operation: tuple[str, Path, Path | None, int]) -> None:
        self._apply_name(operation, self.names)
        self.pending_names.append(operation)

    @staticmethod
    def _apply_name(operation: tuple[str, Path, Path | None, int], names: dict[Path, int]) -> None:
        kind, path, target, inode = operation
        if kind == "link":
            names[path] = inode
        elif kind == "unlink":
            names.pop(path, None)
        else:
            assert target is not None
            names.pop(path, None)
            names[target] = inode

    def _drop_cache(self, file: SimulatedFile) -> None:
        file.cache = file.durable[: file.size]
        file.cache.extend(bytes(file.size - len(file.cache)))

    def _file(self, handle: int) -> SimulatedFile:
        return self.files[self.handles[handle]]

    def _path(self, handle: int) -> Path | None:
        inode = self.handles[handle]
        return next((path for path, its in self.names.items() if its == inode), None)

    def _number(self) -> int:
        self._next += 1
        return self._next

    def _empty_copy(self, chance: random.Random) -> SimulatedDisk:
        other = type(self)(chance, page=self.page, stale=self.stale)
        other._next = self._next
        return other
