"""`/agents/{agent_id}/execute` and `/executions`."""

from typing import Annotated
from uuid import UUID

from litestar import Controller, Response, get, post
from litestar.di import NamedDependency
from litestar.openapi import ResponseSpec
from litestar.params import FromPath, FromQuery, HeaderParameter, JSONBody

from ai_agent.api.answers import Answer
from ai_agent.api.dependencies import Caller
from ai_agent.api.guards import needs
from ai_agent.api.idempotency import ATTACHES, idempotency_key
from ai_agent.api.openapi import STREAMS, may_answer
from ai_agent.api.parameters import LongLimit
from ai_agent.api.rate_limits import limited
from ai_agent.api.sse import START, EventStream, resume_position
from ai_agent.domain.events import EventPage
from ai_agent.domain.executions import ExecuteAgent, Execution, ExecutionAnswer
from ai_agent.domain.identity import Scope
from ai_agent.domain.rate_limits import RouteClass
from ai_agent.realtime.event_log import Position
from ai_agent.services.execution_streams import ExecutionStreams
from ai_agent.services.executions import ExecutionService

RUNS = needs(Scope.AGENTS_EXECUTE) | limited(RouteClass.EXECUTE) | ATTACHES
"""`opt` of an operation that starts a run."""


class ExecutionController(Controller):
    tags = ["Executions"]

    @post(
        "/agents/{agent_id:uuid}/execute",
        status_code=200,
        responses={200: ResponseSpec(ExecutionAnswer), 202: ResponseSpec(Execution)},
        opt=RUNS | STREAMS | may_answer(502, 504),
    )
    async def execute_agent(
        self,
        request: Caller,
        agent_id: FromPath[UUID],
        data: JSONBody[ExecuteAgent],
        executions: NamedDependency[ExecutionService],
        streams: NamedDependency[ExecutionStreams],
    ) -> Response[object]:
        """Execute an agent

        Stores the message, runs the agent and waits for its answer. Without `session_id` a session is made. With
        `Prefer: respond-async` it answers 202 at once; with `stream: true` it answers with the events, as the stream
        call does. A run that fails answers its own error, and names itself in `details.execution_id`.
        """
        key = idempotency_key(request)
        execution = await executions.start(request.user, agent_id, data, correlation_id(request), key)
        if "respond-async" in request.headers.get("prefer", ""):
            return accepted(execution)
        if data.stream:
            return await stream(request, executions, streams, execution.id, START, cancel=False)
        answer = await executions.answer(request.user, execution.id, key)
        return accepted(answer) if isinstance(answer, Execution) else Answer(answer)

    @post("/agents/{agent_id:uuid}/execute/stream", status_code=200, opt=RUNS | STREAMS)
    async def stream_agent(
        self,
        request: Caller,
        agent_id: FromPath[UUID],
        data: JSONBody[ExecuteAgent],
        executions: NamedDependency[ExecutionService],
        streams: NamedDependency[ExecutionStreams],
        cancel_on_disconnect: FromQuery[bool] = False,
    ) -> Response[object]:
        """Execute an agent and stream its events

        Server-sent events: `id` is `<epoch>:<seq>`, `event` the type, `data` the frame. A client that was cut off
        goes on with `GET /executions/{execution_id}/events` and `Last-Event-ID`. One that goes away does not stop the
        run, unless `cancel_on_disconnect` is true.
        """
        execution = await executions.start(
            request.user, agent_id, data, correlation_id(request), idempotency_key(request)
        )
        return await stream(request, executions, streams, execution.id, START, cancel=cancel_on_disconnect)

    @get(
        "/executions/{execution_id:uuid}/events",
        responses={200: ResponseSpec(EventPage)},
        opt=needs(Scope.AGENTS_EXECUTE) | STREAMS,
    )
    async def list_execution_events(
        self,
        request: Caller,
        execution_id: FromPath[UUID],
        executions: NamedDependency[ExecutionService],
        streams: NamedDependency[ExecutionStreams],
        after: FromQuery[str | None] = None,
        limit: LongLimit = 50,
        last_event_id: Annotated[str | None, HeaderParameter(name="Last-Event-ID")] = None,
    ) -> Response[object]:
        """List or follow the events of an execution

        A page of the event log, or with `Accept: text/event-stream` the stream of it: from `after` or `Last-Event-ID`
        to the end, also while it runs, and also after a restart of the server. A position that is gone gets one
        `execution.snapshot`, the text so far, and goes on from there.
        """
        position = resume_position(after or last_event_id)
        if "text/event-stream" in request.headers.get("accept", ""):
            return await stream(request, executions, streams, execution_id, position, cancel=False)
        page: EventPage = await streams.page(request.user, execution_id, position, limit)
        return Answer(page)

    @post("/executions/{execution_id:uuid}/cancel", status_code=202, opt=needs(Scope.AGENTS_EXECUTE) | ATTACHES)
    async def cancel_execution(
        self, request: Caller, execution_id: FromPath[UUID], executions: NamedDependency[ExecutionService]
    ) -> Execution:
        """Cancel an execution

        It stops within a second, and what it has said is kept. One that has ended stays as it is.
        """
        return await executions.cancel(request.user, execution_id, idempotency_key(request))

    @post("/executions/{execution_id:uuid}/retry", status_code=202, responses={202: ResponseSpec(Execution)}, opt=RUNS)
    async def retry_execution(
        self, request: Caller, execution_id: FromPath[UUID], executions: NamedDependency[ExecutionService]
    ) -> Response[object]:
        """Retry an execution

        Runs the agent, as it is now, once more on the same message: a new execution, for one that failed or was
        cancelled. 409 for any other, and where the session has a live one.
        """
        return accepted(
            await executions.retry(request.user, execution_id, correlation_id(request), idempotency_key(request))
        )

    @post("/agents/{agent_id:uuid}/executions", status_code=202, responses={202: ResponseSpec(Execution)}, opt=RUNS)
    async def create_execution(
        self,
        request: Caller,
        agent_id: FromPath[UUID],
        data: JSONBody[ExecuteAgent],
        executions: NamedDependency[ExecutionService],
    ) -> Response[object]:
        """Execute an agent in the background

        Stores the message, queues the run and answers at once; `Location` names it. Follow it with its events, wait
        for it with `?wait`, or be called at `callback_url`. `stream` has no meaning here.
        """
        execution = await executions.start(
            request.user, agent_id, data, correlation_id(request), idempotency_key(request)
        )
        return accepted(execution)


async def stream(
    request: Caller,
    executions: ExecutionService,
    streams: ExecutionStreams,
    execution_id: UUID,
    position: Position,
    *,
    cancel: bool,
) -> Response[object]:
    await streams.check(request.user, execution_id)
    following = executions.follow(request.user, execution_id, position, cancel_on_leave=cancel)
    return EventStream(following, execution_id)


def accepted(execution: Execution) -> Response[object]:
    return Answer(execution, status_code=202, headers={"Location": f"/api/v1/executions/{execution.id}"})


def correlation_id(request: Caller) -> str:
    return str(request.scope["correlation_id"])  # type: ignore[typeddict-item]  # set by the outer wrapper
