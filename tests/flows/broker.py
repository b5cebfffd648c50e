"""A message broker: as much of AMQP 0-9-1 as a Compute endpoint and its clients (pika) speak.

Queues are named, an exchange is only a name, a routing key is the name of a queue. What a consumer has not
acknowledged when its connection goes is delivered again. Everything runs in one asyncio loop.
"""

from __future__ import annotations

import asyncio
import itertools
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from pamqp import frame
from pamqp.body import ContentBody
from pamqp.commands import Basic, Channel, Confirm, Connection, Exchange, Queue
from pamqp.header import ContentHeader, ProtocolHeader

FRAME_BYTES = 131_072


@dataclass(frozen=True, slots=True)
class Message:
    """A body and its properties (headers, content type, timestamp)."""

    body: bytes
    properties: Basic.Properties


@dataclass(slots=True)
class MessageQueue:
    """Messages that wait, and who takes them: a function, or the consumers of connections in turn."""

    name: str
    waiting: deque[Message] = field(default_factory=deque)
    taker: Callable[[Message], None] | None = None
    consumers: deque[tuple[Session, int, str]] = field(default_factory=deque)

    def put(self, message: Message) -> None:
        """Add a message and deliver what can be delivered."""
        self.waiting.append(message)
        self.deliver()

    def deliver(self) -> None:
        """Hand waiting messages on."""
        while self.waiting and (self.taker or self.consumers):
            message = self.waiting.popleft()
            if self.taker:
                self.taker(message)
                continue
            self.consumers.rotate(-1)
            session, channel, tag = self.consumers[-1]
            session.deliver(channel, tag, self, message)


class Broker:
    """Queues and the connections to them."""

    def __init__(self) -> None:
        self.queues: dict[str, MessageQueue] = {}
        self.port = 0
        self._server: asyncio.Server | None = None

    async def start(self) -> None:
        """Listen on a free port of the loopback interface."""
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]

    def stop(self) -> None:
        """Stop listening."""
        if self._server:
            self._server.close()

    def queue(self, name: str, taker: Callable[[Message], None] | None = None) -> MessageQueue:
        """The queue of a name, made at first need; `taker` is called with each of its messages."""
        queue = self.queues.setdefault(name, MessageQueue(name))
        queue.taker = taker or queue.taker
        return queue

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        session = Session(self, writer)
        try:
            await session.run(reader)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass  # the other end is gone: as good as Connection.Close
        finally:
            session.drop()
            writer.close()


class Session:
    """One connection."""

    def __init__(self, broker: Broker, writer: asyncio.StreamWriter) -> None:
        self._broker = broker
        self._writer = writer
        self._confirms: dict[int, itertools.count[int]] = {}
        self._tags = itertools.count(1)
        self._unacknowledged: dict[int, tuple[MessageQueue, Message]] = {}
        self._incoming: dict[int, tuple[str, ContentHeader | None, bytearray]] = {}

    async def run(self, reader: asyncio.StreamReader) -> None:
        """Answer frames until the connection is closed."""
        assert isinstance(frame.unmarshal(await reader.readexactly(8))[2], ProtocolHeader)
        able = {"publisher_confirms": True, "basic.nack": True}
        self._send(0, Connection.Start(server_properties={"capabilities": able}))
        while True:
            head = await reader.readexactly(7)
            rest = await reader.readexactly(int.from_bytes(head[3:], "big") + 1)
            _, channel, received = frame.unmarshal(head + rest)
            if isinstance(received, Connection.Close):
                self._send(0, Connection.CloseOk())
                return
            self._answer(channel, received)
            await self._writer.drain()

    def _send(self, channel: int, *frames: object) -> None:
        self._writer.write(b"".join(frame.marshal(each, channel) for each in frames))

    def _answer(self, channel: int, received: object) -> None:
        match received:
            case Connection.StartOk():
                self._send(0, Connection.Tune(channel_max=255, frame_max=FRAME_BYTES, heartbeat=0))
            case Connection.Open():
                self._send(0, Connection.OpenOk())
            case Channel.Open():
                self._send(channel, Channel.OpenOk())
            case Channel.Close():
                self._send(channel, Channel.CloseOk())
            case Exchange.Declare():
                self._send(channel, Exchange.DeclareOk())
            case Queue.Declare(queue=name):
                waiting = len(self._broker.queue(name).waiting)
                self._send(channel, Queue.DeclareOk(queue=name, message_count=waiting, consumer_count=0))
            case Confirm.Select():
                self._confirms[channel] = itertools.count(1)
                self._send(channel, Confirm.SelectOk())
            case Basic.Qos():
                self._send(channel, Basic.QosOk())
            case Basic.Consume():
                self._consume(channel, received)
            case Basic.Ack(delivery_tag=tag, multiple=multiple):
                for known in [t for t in self._unacknowledged if t == tag or (multiple and t < tag)]:
                    del self._unacknowledged[known]
            case Basic.Cancel(consumer_tag=tag):
                self._forget(tag)
                self._send(channel, Basic.CancelOk(consumer_tag=tag))
            case Basic.Publish(routing_key=key):
                self._incoming[channel] = (key, None, bytearray())
            case ContentHeader():
                self._incoming[channel] = (self._incoming[channel][0], received, bytearray())
                self._complete(channel)
            case ContentBody(value=value):
                self._incoming[channel][2].extend(value)
                self._complete(channel)

    def _complete(self, channel: int) -> None:
        """Once its body is whole, put a published message into its queue and confirm it."""
        key, header, body = self._incoming[channel]
        assert header is not None
        if len(body) < header.body_size:
            return
        del self._incoming[channel]
        self._broker.queue(key).put(Message(bytes(body), header.properties))
        if channel in self._confirms:
            self._send(channel, Basic.Ack(delivery_tag=next(self._confirms[channel])))

    def _consume(self, channel: int, asked: Basic.Consume) -> None:
        tag = asked.consumer_tag or f"consumer-{next(self._tags)}"
        self._send(channel, Basic.ConsumeOk(consumer_tag=tag))
        queue = self._broker.queue(asked.queue)
        queue.consumers.append((self, channel, tag))
        queue.deliver()

    def deliver(self, channel: int, tag: str, queue: MessageQueue, message: Message) -> None:
        """Send a message to one of this connection's consumers."""
        delivery = next(self._tags)
        self._unacknowledged[delivery] = (queue, message)
        step = FRAME_BYTES - 8
        parts = [message.body[i : i + step] for i in range(0, len(message.body), step)]
        self._send(
            channel,
            Basic.Deliver(consumer_tag=tag, delivery_tag=delivery, exchange="", routing_key=queue.name),
            ContentHeader(body_size=len(message.body), properties=message.properties),
            *map(ContentBody, parts),
        )

    def _forget(self, tag: str | None) -> None:
        for queue in self._broker.queues.values():
            kept = [c for c in queue.consumers if c[0] is not self or (tag is not None and c[2] != tag)]
            queue.consumers = deque(kept)

    def drop(self) -> None:
        """The connection is gone: its consumers go, and what they have not acknowledged waits again."""
        self._forget(None)
        for queue, message in reversed(self._unacknowledged.values()):
            queue.waiting.appendleft(message)
            queue.deliver()
