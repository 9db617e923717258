"""Appends to the event log in Redis: gathered, and said again when a server may have lost them."""

import asyncio
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, cast

from ai_agent.domain.channels import Retention
from ai_agent.domain.errors import ServiceUnavailable
from ai_agent.realtime.event_log import Fenced, Position
from ai_agent.realtime.redis_script import SCRIPT, Keys, head
from ai_agent.realtime.unconfirmed import Group, Unconfirmed
from ai_agent.storage.redis import Argument, Reply
from ai_agent.storage.redis_pipeline import Asked, RedisPipeline

if TYPE_CHECKING:
    from redis.asyncio import Redis

UNCONFIRMED_SECONDS = 2.0
"""More than the second that Redis may take to write to its disk, and than a replica that is well lags behind."""
GROUPED_EVENTS = 256


class RedisAppends:
    """Those to one channel that wait in the same moment go in one call, in their order."""

    def __init__(self, redis: "Redis", keys: Keys, retained: Callable[[str], Retention]):
        self._keys = keys
        self._retained = retained
        self.unconfirmed = Unconfirmed(UNCONFIRMED_SECONDS)
        self._pipeline = RedisPipeline(redis, SCRIPT, self._all_again, self.unconfirmed.answered)
        self._gathering: dict[str, _Append] = {}

    async def append(self, channel: str, group: Group) -> Position:
        """Raises Fenced, ServiceUnavailable."""
        call = self._gathering.get(channel)
        if call is None or call.size >= GROUPED_EVENTS:
            call = self._gathering[channel] = _Append(self, channel)
            self._pipeline.send(call)
        return await call.add(group)

    async def ask(self, channel: str, command: str, *arguments: Argument) -> Reply:
        """Behind the appends of before. Raises ServiceUnavailable."""
        return await answer(self._pipeline, self._keys.call(channel, command, *arguments))

    def close(self) -> None:
        self._pipeline.close()

    def arguments(self, call: "_Append", channel: str, groups: list[Group]) -> Sequence[Argument]:
        self.gathered(call, channel)
        expected, again = self.unconfirmed.expected(channel), self.unconfirmed.again(channel)
        kept, seconds = self._retained(channel)
        arguments: list[Argument] = [expected, kept, int(seconds * 1000), head(channel)]
        for fence, events in (*again, *groups):
            arguments += (fence, len(events), *(part for event in events for part in event))
        return self._keys.call(channel, "append", *arguments)

    def gathered(self, call: "_Append", channel: str) -> None:
        """It takes nothing more."""
        if self._gathering.get(channel) is call:
            del self._gathering[channel]

    def refused(self, call: "_Append", channel: str) -> None:
        """The channel is in another epoch than this process has left it in."""
        self.unconfirmed.doubt(channel)
        self._pipeline.send_first(call)

    def _all_again(self) -> list["_Append"]:
        return [_Append(self, channel) for channel in self.unconfirmed.doubt_all()]


class _Append:
    """What waits to be appended to a channel; nothing, where only what may be lost is to be said again."""

    def __init__(self, appends: RedisAppends, channel: str):
        self._appends = appends
        self._channel = channel
        self._groups: list[Group] = []
        self._answers: list[asyncio.Future[Position]] = []
        self.size = 0

    def add(self, group: Group) -> "asyncio.Future[Position]":
        answer: asyncio.Future[Position] = asyncio.get_running_loop().create_future()
        self._groups.append(group)
        self._answers.append(answer)
        self.size += len(group.events)
        return answer

    def arguments(self) -> Sequence[Argument]:
        return self._appends.arguments(self, self._channel, self._groups)

    def answered(self, reply: Reply) -> None:
        if not isinstance(reply, list):
            self._appends.refused(self, self._channel)
            return
        epoch, *seqs = cast("tuple[bytes, *tuple[int, ...]]", tuple(reply))
        self._settle(epoch.decode(), seqs[len(seqs) - len(self._groups) :])

    def _settle(self, epoch: str, seqs: Sequence[int]) -> None:
        accepted = [group for group, seq in zip(self._groups, seqs, strict=True) if seq >= 0]
        self._appends.unconfirmed.appended(self._channel, epoch, accepted)
        for answer, seq in zip(self._answers, seqs, strict=True):
            if answer.done():
                continue
            if seq < 0:
                answer.set_exception(Fenced())
            else:
                answer.set_result(Position(epoch, seq))

    def failed(self, error: Exception) -> None:
        self._appends.gathered(self, self._channel)
        for answer in self._answers:
            if not answer.done():
                answer.set_exception(unavailable(error))


async def answer(pipeline: RedisPipeline, arguments: Sequence[Argument]) -> Reply:
    """Raises ServiceUnavailable."""
    asked = Asked(*arguments)
    pipeline.send(asked)
    try:
        return await asked.reply
    except Exception as error:
        raise unavailable(error) from error


def unavailable(error: Exception) -> ServiceUnavailable:
    unavailable = ServiceUnavailable("The event log cannot be reached or written")
    unavailable.__cause__ = error
    return unavailable
