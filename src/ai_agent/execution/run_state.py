"""What a run is given, what it leaves behind after each step, and what it needs of its surroundings.

Light: the worker imports it at its start, the agent library comes with the first run.
"""

from collections.abc import Sequence
from datetime import datetime
from typing import Any, Literal, Protocol
from uuid import UUID

import msgspec

from ai_agent.domain.agents import AgentContent
from ai_agent.domain.executions import Usage
from ai_agent.domain.fields import JsonObject
from ai_agent.domain.messages import HistoryEntry
from ai_agent.domain.tool_calls import ToolCallStatus
from ai_agent.domain.tools import ToolKind, ToolSpec


class RunInput(msgspec.Struct, frozen=True):
    """The agent at the run's version, the branch of messages that ends with the new one, and the owner's tools."""

    agent: AgentContent | None
    branch: list[HistoryEntry]
    owner_id: str
    tools: list[ToolSpec] = []


class RunState(msgspec.Struct):
    """Where a run stands. Only what was saved is gone on from; in memory it also holds what a cut step said.

    `history` is the library's JSON of the messages from the input on. A response's calls without a result are open.
    """

    message_id: UUID
    history: msgspec.Raw = msgspec.Raw(b"[]")
    content: str = ""
    usage: Usage = msgspec.field(default_factory=Usage)
    steps: int = 0
    tool_calls: int = 0
    context_truncated: bool = False
    unavailable_tools: list[str] = []
    model: str | None = None
    waited_at_fence: int | None = None


class CallRecord(msgspec.Struct):
    """A row of `tool_calls`. `call_id` is unique in its run."""

    call_id: str
    step: int
    name: str
    kind: ToolKind
    arguments: JsonObject
    status: ToolCallStatus
    created_at: datetime
    output: Any = None
    is_error: bool = False
    truncated: bool = False
    reason: str | None = None
    duration_ms: int | None = None
    finished_at: datetime | None = None


class Progress(msgspec.Struct, frozen=True):
    """How far a call of a tool is; it grows, up to `total` where the tool knows one."""

    progress: float
    total: float | None = None
    message: str | None = None


class PendingCall(msgspec.Struct, frozen=True):
    """A call that waits for a human or for the client; `arguments` as the model gave them."""

    call_id: str
    name: str
    kind: ToolKind
    arguments: JsonObject
    needs: Literal["approval", "result"]


class Approved(msgspec.Struct, frozen=True, tag="approved"):
    """`arguments` are those that the call is to be made with; None leaves the model's own."""

    call_id: str
    arguments: JsonObject | None = None


class Rejected(msgspec.Struct, frozen=True, tag="rejected"):
    call_id: str
    reason: str | None = None


class Expired(msgspec.Struct, frozen=True, tag="expired"):
    call_id: str


class Delivered(msgspec.Struct, frozen=True, tag="delivered"):
    """What a client made of a call."""

    call_id: str
    output: Any
    is_error: bool = False


Answered = Approved | Rejected | Expired | Delivered


class Finished(msgspec.Struct, frozen=True):
    state: RunState


class Waiting(msgspec.Struct, frozen=True):
    """All calls of the step that could run have run; the last `save` holds their results and those that wait."""

    state: RunState
    pending: list[PendingCall]


class Run(Protocol):
    async def say(self, kind: str, text: str) -> None:
        """Hears a piece, of kind `token` or `reasoning`."""

    async def step(self, step: int, steps: int) -> None:
        """Hears that a step begins; `steps` is the bound."""

    async def save(self, state: RunState, calls: Sequence[CallRecord]) -> None:
        """Writes down the state and the calls that changed, under the fence. Raises LostClaim."""

    async def tool_progresses(self, call: CallRecord, progress: Progress) -> None:
        """Hears how far a call is, which nobody waits for."""

    async def tool_ended(self, call: CallRecord) -> None:
        """Hears that a call has ended, while others of its step may run on; that it began is in what was saved."""


class RunAgent(Protocol):
    """The agent loop, as the worker calls it."""

    async def __call__(
        self,
        given: RunInput,
        state: RunState,
        answers: Sequence[Answered],
        interrupted: frozenset[str],
        access: Any,
        toolbox: Any,
        run: Run,
    ) -> Finished | Waiting:
        """Goes on from `state`, which it changes in place.

        `answers` are what came of calls that waited, `interrupted` the calls that ran when a worker was lost.
        Raises AIAgentError, and lets LostClaim and a cancel through; `state` then holds what was said and used.
        """
