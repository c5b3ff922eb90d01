"""The views in SQLite: catalogue, cursors, producers, policies and keyed state.

They are as of a journal position that is written in the same transaction. They hold nothing that the journal does not
say (decision D2), so a lost or damaged database is made again from it. Synchronous; `store.py` runs it in a thread of
its own.

A cursor is stored as the encoded AckRecord that makes it from nothing.
"""

from __future__ import annotations

import json
import sqlite3
from pathlib import Path
from typing import Any

from sqlite_utils import Database

from gateway.log.positions import BEFORE_JOURNAL, JournalPosition
from gateway.log.records import AckRecord, decode_ack, encode_record
from gateway.metadata.cursor import CursorState
from gateway.metadata.fold import Fold
from gateway.metadata.states import ProducerState, SubscriptionState, TopicState, TopicSummary

SCHEMA_VERSION = 1
CACHE_KIB = 1024
"""Pages SQLite keeps in memory; the views are read when topics open, not per message."""
WAL_PAGES = 256
WAL_BYTES_KEPT = 1024 * 1024

TABLES: dict[str, tuple[dict[str, type], str | tuple[str, ...]]] = {
    "about": ({"key": str, "value": str}, "key"),
    "namespaces": ({"name": str, "policies": str}, "name"),
    "topics": (
        {"name": str, "namespace": str, "ledger_id": int, "partitions": int, "properties": str},
        "name",
    ),
    "ledgers": ({"ledger_id": int, "next_entry_id": int}, "ledger_id"),
    "subscriptions": (
        {"subscription_id": int, "ledger_id": int, "name": str, "cursor": bytes},
        "subscription_id",
    ),
    "producers": (
        {"ledger_id": int, "name": str, "last_sequence_id": int, "epoch": int},
        ("ledger_id", "name"),
    ),
    "state": ({"owner": str, "key": str, "value": bytes}, ("owner", "key")),
}
"""Table: columns and primary key."""


class Views:
    """One database. Use in one thread."""

    def __init__(self, path: Path | None) -> None:
        """Open, and make what is missing. None: in memory, for tests and repairs. Raises: sqlite3.DatabaseError."""
        connection = sqlite3.connect(str(path) if path else ":memory:", isolation_level=None, check_same_thread=False)
        try:
            self._database = Database(connection)
            self._connection = connection
            self._prepare()
        except BaseException:
            connection.close()
            raise

    @property
    def position(self) -> JournalPosition:
        """Of the last group that the views hold."""
        text = self._about("position")
        if not text:
            return BEFORE_JOURNAL
        segment_number, group_number = text.split(":")
        return JournalPosition(int(segment_number), int(group_number))

    @property
    def directory_id(self) -> bytes | None:
        """Of the journal that the views are made from; None: of none yet."""
        text = self._about("directory_id")
        return bytes.fromhex(text) if text else None

    @property
    def next_ledger_id(self) -> int:
        """Greater than any ledger id that was ever given."""
        return int(self._about("ledger_id_max") or 0) + 1

    @property
    def next_subscription_id(self) -> int:
        """Greater than any subscription id that was ever given."""
        return int(self._about("subscription_id_max") or 0) + 1

    def start(self, directory_id: bytes) -> None:
        """Say which journal the views are made from."""
        self._set_about("directory_id", directory_id.hex())

    def apply(self, fold: Fold, *, durable: bool = False) -> None:
        """Bring the views up to `fold.position`, all or nothing.

        `durable`: they are synced on return. Otherwise a power cut may take them back to an older position, never to a
        mixture. Raises: sqlite3.DatabaseError; the fold can be applied again then.
        """
        self._connection.execute(f"PRAGMA synchronous={'FULL' if durable else 'NORMAL'}")
        with self._database.atomic():
            if not fold.empty:
                self._apply(fold)
            if durable:
                # A transaction without changes is not synced, so the checkpoint makes one.
                self._set_about("checkpoint", str(int(self._about("checkpoint") or 0) + 1))

    def load_topic(self, name: str) -> TopicState | None:
        """Everything about one topic."""
        rows = list(self._database.query("select * from topics where name = ?", [name]))
        if not rows:
            return None
        topic = rows[0]
        ledger_id = topic["ledger_id"]
        subscriptions = tuple(
            SubscriptionState(row["subscription_id"], row["name"], _cursor(row["cursor"]))
            for row in self._database.query(
                "select * from subscriptions where ledger_id = ? order by subscription_id", [ledger_id]
            )
        )
        producers = {
            row["name"]: ProducerState(row["last_sequence_id"], row["epoch"])
            for row in self._database.query("select * from producers where ledger_id = ?", [ledger_id])
        }
        return TopicState(
            name,
            ledger_id,
            topic["partitions"],
            self._next_entry_id(ledger_id),
            json.loads(topic["properties"]),
            subscriptions if ledger_id else (),
            producers if ledger_id else {},
        )

    def list_topics(self, namespace: str | None) -> list[TopicSummary]:
        """Topics of `tenant/namespace` or of all, by name."""
        sql = (
            "select name, topics.ledger_id, partitions, coalesce(next_entry_id, 0) as next_entry_id"
            " from topics left join ledgers using (ledger_id)"
        )
        if namespace is None:
            rows = self._database.query(sql + " order by name")
        else:
            rows = self._database.query(sql + " where namespace = ? order by name", [namespace])
        return [TopicSummary(*row.values()) for row in rows]

    def list_namespaces(self) -> dict[str, dict[str, Any]]:
        """Namespaces with policies of their own."""
        rows = self._database.query("select name, policies from namespaces order by name")
        return {row["name"]: json.loads(row["policies"]) for row in rows}

    def load_state(self, owner: str) -> dict[str, bytes]:
        """All keys of an owner."""
        rows = self._database.query("select key, value from state where owner = ? order by key", [owner])
        return {row["key"]: row["value"] for row in rows}

    def dump(self) -> dict[str, list[dict[str, Any]]]:
        """Every row of every table, but for the count of checkpoints: what two views are compared by."""
        tables: dict[str, list[dict[str, Any]]] = {}
        for table, (columns, key) in TABLES.items():
            order = ", ".join((key,) if isinstance(key, str) else key)
            rows = list(self._database.query(f"select {', '.join(columns)} from {table} order by {order}"))
            tables[table] = [row for row in rows if row.get("key") != "checkpoint" or table != "about"]
        return tables

    def close(self) -> None:
        """Let go of the database."""
        self._connection.close()

    def _prepare(self) -> None:
        connection = self._connection
        for pragma in (
            f"cache_size=-{CACHE_KIB}",
            f"wal_autocheckpoint={WAL_PAGES}",
            f"journal_size_limit={WAL_BYTES_KEPT}",
            "temp_store=MEMORY",
        ):
            connection.execute(f"PRAGMA {pragma}").fetchall()
        self._database.enable_wal()
        with self._database.atomic():
            existing = set(self._database.table_names())
            for table, (columns, key) in TABLES.items():
                if table not in existing:
                    self._database.create_table(table, columns, pk=key, not_null=set(columns))
            if "topics" not in existing:
                self._database.table("topics").create_index(["namespace"])
                self._database.table("subscriptions").create_index(["ledger_id"])
                self._set_about("version", str(SCHEMA_VERSION))
        if self._about("version") != str(SCHEMA_VERSION):
            raise sqlite3.DatabaseError("views of another version")

    def _apply(self, fold: Fold) -> None:
        execute = self._connection.execute
        many = self._connection.executemany
        for ledger_id in sorted(fold.deleted_ledgers):
            for table in ("subscriptions", "producers", "ledgers"):
                execute(f"delete from {table} where ledger_id = ?", [ledger_id])
        for name, topic in fold.topics.items():
            if topic.deleted:
                execute("delete from topics where name = ?", [name])
                continue
            namespace = "/".join(name.partition("://")[2].split("/")[:2])
            properties = json.dumps(topic.properties, sort_keys=True)
            execute(
                "insert or replace into topics (name, namespace, ledger_id, partitions, properties)"
                " values (?, ?, ?, ?, ?)",
                [name, namespace, topic.ledger_id, topic.partitions, properties],
            )
        many(
            "insert into ledgers (ledger_id, next_entry_id) values (?, ?)"
            " on conflict do update set next_entry_id = max(next_entry_id, excluded.next_entry_id)",
            fold.next_entry_ids.items(),
        )
        for subscription_id, subscription in fold.subscriptions.items():
            if subscription.deleted:
                execute("delete from subscriptions where subscription_id = ?", [subscription_id])
            else:
                execute(
                    "insert or replace into subscriptions (subscription_id, ledger_id, name, cursor)"
                    " values (?, ?, ?, ?)",
                    [
                        subscription_id,
                        subscription.ledger_id,
                        subscription.name,
                        _encoded(CursorState(subscription.mark_delete)),
                    ],
                )
        for subscription_id, change in fold.cursors.items():
            self._move_cursor(subscription_id, change.record(subscription_id))
        many(
            "insert or replace into producers (ledger_id, name, last_sequence_id, epoch) values (?, ?, ?, ?)",
            [(*key, *value) for key, value in fold.producers.items()],
        )
        for namespace, policies in fold.policies.items():
            if policies:
                execute("insert or replace into namespaces (name, policies) values (?, ?)", [namespace, policies])
            else:
                execute("delete from namespaces where name = ?", [namespace])
        for (owner, key), value in fold.state.items():
            if value is None:
                execute("delete from state where owner = ? and key = ?", [owner, key])
            else:
                execute("insert or replace into state (owner, key, value) values (?, ?, ?)", [owner, key, value])
        for name, found in (("ledger_id_max", fold.ledger_id_max), ("subscription_id_max", fold.subscription_id_max)):
            if found > int(self._about(name) or 0):
                self._set_about(name, str(found))
        self._set_about("position", f"{fold.position.segment_number}:{fold.position.group_number}")

    def _move_cursor(self, subscription_id: int, change: AckRecord) -> None:
        row = self._connection.execute(
            "select cursor from subscriptions where subscription_id = ?", [subscription_id]
        ).fetchone()
        if row is None:
            # Acks of a subscription that was deleted meanwhile.
            return
        cursor = _cursor(row[0])
        cursor.apply(change)
        self._connection.execute(
            "update subscriptions set cursor = ? where subscription_id = ?", [_encoded(cursor), subscription_id]
        )

    def _next_entry_id(self, ledger_id: int) -> int:
        row = self._connection.execute("select next_entry_id from ledgers where ledger_id = ?", [ledger_id]).fetchone()
        return int(row[0]) if row else 0

    def _about(self, key: str) -> str | None:
        row = self._connection.execute("select value from about where key = ?", [key]).fetchone()
        return str(row[0]) if row else None

    def _set_about(self, key: str, value: str) -> None:
        self._connection.execute("insert or replace into about (key, value) values (?, ?)", [key, value])


def _encoded(cursor: CursorState) -> bytes:
    return encode_record(cursor.snapshot(0))[1]


def _cursor(encoded: bytes) -> CursorState:
    cursor = CursorState()
    cursor.apply(decode_ack(encoded))
    return cursor
