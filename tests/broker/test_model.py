"""Subscriptions against a model that is too simple to be wrong: lists of numbers.

Hypothesis makes up histories of publishing, receiving, acknowledging, refusing, seeking, reconnecting and reopening
the log; whatever it makes up, what is delivered is what the model expects.
"""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any, TypeVar

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from gateway.broker.broker import Broker
from gateway.broker.settings import BrokerSettings
from gateway.client.api import Consumer, ConsumerOptions, Producer
from gateway.client.local import LocalClient
from gateway.clock import SystemClock
from gateway.limits import MIB
from gateway.log import Log, LogSettings
from gateway.message import InitialPosition, MessageId, OutgoingMessage, Position, SubscriptionType

TOPIC = "persistent://public/default/model"
QUEUE = 4
"""Small, so that permits run out all the time."""
WAIT_S = 5.0
QUIET_S = 0.02

Result = TypeVar("Result")


class SubscriptionModel(RuleBasedStateMachine):
    """One topic, one subscription, one consumer at a time."""

    subscription_type: SubscriptionType

    @initialize()
    def begin(self) -> None:
        self.loop = asyncio.new_event_loop()
        self.folder = tempfile.TemporaryDirectory(prefix="headwater-model-")
        self.published = 0
        self.acked: set[int] = set()
        self.expected: list[int] = []
        """To be delivered, in order (shared: in any order)."""
        self.held: dict[int, MessageId] = {}
        """Delivered and neither acknowledged nor refused."""
        self.ids: dict[int, Position] = {}
        self.do(self.open())

    def do(self, work: Coroutine[Any, Any, Result]) -> Result:
        return self.loop.run_until_complete(work)

    @staticmethod
    async def call(act: Callable[[MessageId], None], message_id: MessageId) -> None:
        """What the door does at once, it does on the event loop."""
        act(message_id)

    async def open(self) -> None:
        clock = SystemClock()
        self.log = await Log.open(LogSettings(Path(self.folder.name) / "data", 64 * MIB, 16 * MIB), clock)
        self.client = LocalClient(Broker(self.log, clock, BrokerSettings()))
        self.producer: Producer = await self.client.create_producer(TOPIC)
        await self.join()

    async def join(self) -> None:
        self.consumer: Consumer = await self.client.subscribe(
            TOPIC,
            "s",
            ConsumerOptions(self.subscription_type, InitialPosition.earliest, receiver_queue_size=QUEUE),
        )

    def everything_unacked(self) -> list[int]:
        return [number for number in range(self.published) if number not in self.acked]

    def deliver_all_again(self) -> None:
        self.expected = self.everything_unacked()
        self.held = {}

    @rule(count=st.integers(1, 6))
    def publish(self, count: int) -> None:
        async def work() -> None:
            for _ in range(count):
                number = self.published
                message_id = await self.producer.send(OutgoingMessage(b"%d" % number))
                self.ids[number] = message_id.position
                self.expected.append(number)
                self.published += 1

        self.do(work())

    @precondition(lambda self: self.expected)
    @rule()
    def receive(self) -> None:
        message = self.do(asyncio.wait_for(self.consumer.receive(), WAIT_S))
        number = int(message.payload)
        if self.subscription_type is SubscriptionType.shared:
            assert number in self.expected
        else:
            assert number == self.expected[0]
        self.expected.remove(number)
        self.held[number] = message.message_id

    @precondition(lambda self: self.held)
    @rule(data=st.data())
    def acknowledge(self, data: st.DataObject) -> None:
        number = data.draw(st.sampled_from(sorted(self.held)))
        self.do(self.call(self.consumer.acknowledge, self.held.pop(number)))
        self.acked.add(number)

    @precondition(lambda self: self.held and self.subscription_type is SubscriptionType.exclusive)
    @rule(data=st.data())
    def acknowledge_cumulative(self, data: st.DataObject) -> None:
        number = data.draw(st.sampled_from(sorted(self.held)))
        self.do(self.call(self.consumer.acknowledge_cumulative, self.held[number]))
        self.acked |= set(range(number + 1))
        self.held = {held: message_id for held, message_id in self.held.items() if held > number}

    @precondition(lambda self: self.held)
    @rule(data=st.data())
    def refuse(self, data: st.DataObject) -> None:
        number = data.draw(st.sampled_from(sorted(self.held)))
        self.do(self.call(self.consumer.negative_acknowledge, self.held[number]))
        if self.subscription_type is SubscriptionType.shared:
            del self.held[number]
            self.expected.append(number)
        else:
            self.deliver_all_again()

    @precondition(lambda self: self.published)
    @rule(data=st.data())
    def seek(self, data: st.DataObject) -> None:
        number = data.draw(st.integers(0, self.published - 1))
        self.do(self.consumer.seek(self.ids[number]))
        self.acked = set(range(number))
        self.deliver_all_again()

    @rule()
    def reconnect(self) -> None:
        async def work() -> None:
            await self.consumer.close()
            await self.join()

        self.do(work())
        self.deliver_all_again()

    @rule()
    def reopen_the_log(self) -> None:
        async def work() -> None:
            await self.client.close()
            await self.log.close()
            await self.open()

        self.do(work())
        self.deliver_all_again()

    @invariant()
    def cursor_is_sound(self) -> None:
        if hasattr(self, "consumer"):
            self.consumer.inbox.subscription.cursor.check_invariants()  # type: ignore[attr-defined]

    def teardown(self) -> None:
        if not hasattr(self, "loop"):
            return
        try:
            while self.expected:
                self.receive()
            try:
                message = self.do(asyncio.wait_for(self.consumer.receive(), QUIET_S))
            except TimeoutError:
                pass
            else:
                raise AssertionError(f"{message.payload!r} came although nothing was left")
        finally:
            self.do(self.client.close())
            self.do(self.log.close())
            self.loop.close()
            self.folder.cleanup()


class ExclusiveModel(SubscriptionModel):
    subscription_type = SubscriptionType.exclusive


class SharedModel(SubscriptionModel):
    subscription_type = SubscriptionType.shared


_SETTINGS = settings(
    max_examples=12, stateful_step_count=25, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
TestExclusive = ExclusiveModel.TestCase
TestExclusive.settings = _SETTINGS
TestShared = SharedModel.TestCase
TestShared.settings = _SETTINGS
