"""The agent loop against a model server that speaks the providers' own protocols."""

import asyncio
import copy
import json
import time
from collections.abc import Iterator, Sequence
from typing import Any
from uuid import uuid4

import msgspec
import pytest

from ai_agent.domain.agents import AgentContent
from ai_agent.domain.errors import (
    AIAgentError,
    CircuitBreakerOpen,
    ExternalServiceError,
    MaxCostExceeded,
    MaxStepsExceeded,
    MaxToolCallsExceeded,
    MaxTotalTokensExceeded,
    PriceUnknown,
)
from ai_agent.domain.fields import to_json
from ai_agent.domain.messages import HistoryEntry, Role
from ai_agent.domain.tool_calls import ToolCallStatus
from ai_agent.domain.tools import ToolKind, ToolSpec
from ai_agent.execution import model_calls, model_providers
from ai_agent.execution.agent_loop import run_agent
from ai_agent.execution.builtin_tools import BuiltinTools
from ai_agent.execution.local_model import LocalEndpoint, LocalModel
from ai_agent.execution.model_access import ModelAccess
from ai_agent.execution.prices import Price, Prices
from ai_agent.execution.run_state import (
    Answered,
    Approved,
    CallRecord,
    Delivered,
    Expired,
    Finished,
    Progress,
    Rejected,
    RunInput,
    RunState,
    Waiting,
)
from ai_agent.execution.tools import Operation, Toolbox
from ai_agent.security.outbound import OutboundGuard
from ai_agent.security.secret_box import SecretBox
from ai_agent.security.secret_fields import SecretFields
from ai_agent.settings import Settings
from ai_agent.storage.engine import create_database
from tests.model_server import Call, ModelServer, Reply

CLIENT_TOOL = ToolSpec(
    "open_door", ToolKind.CLIENT, "Opens a door.", {"properties": {"door": {"type": "integer"}}, "required": ["door"]}
)


class Killed(Exception):
    """Stands for a worker that dies."""


class Recorder:
    """The surroundings of a run: keeps what it hears, and dies at the `dies_at`-th save."""

    def __init__(self, dies_at: int | None = None):
        self.said: list[tuple[str, str]] = []
        self.steps: list[tuple[int, int]] = []
        self.saves: list[tuple[RunState, list[CallRecord]]] = []
        self.events: list[tuple[str, str, ToolCallStatus]] = []
        self.progress: list[tuple[str, float]] = []
        self._dies_at = dies_at

    @property
    def text(self) -> str:
        return "".join(text for kind, text in self.said if kind == "token")

    async def say(self, kind: str, text: str) -> None:
        self.said.append((kind, text))

    async def step(self, step: int, steps: int) -> None:
        self.steps.append((step, steps))

    async def save(self, state: RunState, calls: Sequence[CallRecord]) -> None:
        self.saves.append((copy.deepcopy(state), [copy.deepcopy(call) for call in calls]))
        if len(self.saves) == self._dies_at:
            raise Killed

    async def tool_progresses(self, call: CallRecord, progress: Progress) -> None:
        self.progress.append((call.call_id, progress.progress))

    async def tool_ended(self, call: CallRecord) -> None:
        self.events.append(("ended", call.name, call.status))


class Stage:
    """An agent, its model, and what happened when it ran."""

    def __init__(self, model: ModelServer, provider: str):
        self.model = model
        self.provider = provider
        self.config: dict[str, Any] = {}
        self.tools = ["calculator", "current_time"]
        self.specs: list[ToolSpec] = []
        self.branch = [HistoryEntry(Role.USER, "Hi")]
        self.recorder = Recorder()
        self.state = RunState(uuid4())
        settings = Settings(
            openai_api_key="k",
            openai_base_url=f"{model.url}/v1",
            anthropic_api_key="k",
            anthropic_base_url=model.url,
        )
        secrets = SecretFields(SecretBox("s" * 40, ()), "agents")
        database = create_database("sqlite:///unused.db", pool_size=1, statement_timeout=5)
        self.toolbox = Toolbox({ToolKind.BUILTIN: BuiltinTools(database)})
        self.access = ModelAccess(settings, LocalModel(), secrets, OutboundGuard(()))

    def run(self, answers: Sequence[Answered] = (), interrupted: frozenset[str] = frozenset()) -> Finished | Waiting:
        config = {"provider": self.provider, "model": "m"} | self.config
        agent = AgentContent(
            id=uuid4(),
            name="a",
            description=None,
            system_prompt="Be brief.",
            model_config=to_json(config),
            tools=to_json(self.tools),
            metadata=msgspec.Raw(b"{}"),
            secrets=msgspec.Raw(b"{}"),
        )
        given = RunInput(agent, self.branch, "owner", self.specs)
        return asyncio.run(run_agent(given, self.state, answers, interrupted, self.access, self.toolbox, self.recorder))

    def fails(self, kind: type[Exception]) -> Any:
        with pytest.raises(kind) as raised:
            self.run()
        return raised.value

    def resume(self, answers: Sequence[Answered] = (), interrupted: frozenset[str] = frozenset()) -> Finished | Waiting:
        """Goes on from what was saved last, as another process would."""
        saved = msgspec.json.encode(self.recorder.saves[-1][0])
        self.state = msgspec.json.decode(saved, type=RunState)
        self.recorder = Recorder()
        return self.run(answers, interrupted)

    def heard_by_model(self) -> str:
        """What the model was told of the tools of the last step."""
        sent = self.model.requests[-1]["messages"]
        if self.provider == "openai":
            return " ".join(message["content"] for message in sent if message["role"] == "tool")
        return json.dumps(
            [block for message in sent if isinstance(message["content"], list) for block in message["content"]]
        )

    def last_calls(self) -> list[CallRecord]:
        return self.recorder.saves[-1][1]


@pytest.fixture(params=["openai", "anthropic"])
def stage(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Stage]:
    monkeypatch.setattr(model_calls, "FIRST_PAUSE", 0.01)
    with ModelServer() as model:
        yield Stage(model, request.param)
    # Their connections belong to the event loop that is gone.
    model_providers._openai.cache_clear()
    model_providers._anthropic.cache_clear()


def test_an_answer_comes_word_by_word_and_is_counted(stage: Stage) -> None:
    stage.model.script(Reply("Hello there"))
    assert isinstance(stage.run(), Finished)
    assert stage.recorder.said == [("token", "Hello"), ("token", " there")]
    assert (stage.state.content, stage.state.steps, stage.state.model) == ("Hello there", 1, "m")
    assert (stage.state.usage.input_tokens, stage.state.usage.output_tokens) == (7, 2)
    assert stage.state.usage.estimated is False
    assert "Be brief." in json.dumps(stage.model.requests[0])


def test_a_tool_is_called_and_the_model_goes_on_with_its_result(stage: Stage) -> None:
    stage.model.script(Reply("Let me see.", calls=[Call("calculator", {"expression": "2+3"}, "c1")]), Reply("It is 5."))
    stage.run()
    assert stage.state.content == stage.recorder.text == "Let me see.\n\nIt is 5."
    assert stage.recorder.steps == [(1, 50), (2, 50)]
    assert '"result":5' in stage.heard_by_model().replace("\\", "").replace(" ", "")
    assert stage.recorder.events == [("ended", "calculator", ToolCallStatus.COMPLETED)]
    call = stage.last_calls()[0]
    assert (call.call_id, call.output, call.is_error, call.step) == ("c1", {"result": 5}, False, 1)
    assert call.duration_ms is not None
    assert stage.state.usage.input_tokens == 14
    assert stage.state.tool_calls == 1


def test_the_model_is_told_of_the_tools_that_there_are(stage: Stage) -> None:
    stage.tools = ["calculator", "nothing", "open_door"]
    stage.specs = [CLIENT_TOOL, ToolSpec("current_time", ToolKind.BUILTIN)]
    stage.run()
    told = json.dumps(stage.model.requests[0]["tools"])
    assert "calculator" in told
    assert "open_door" in told
    assert "current_time" not in told
    assert stage.state.unavailable_tools == ["nothing"]


def test_calls_of_a_step_run_side_by_side(stage: Stage) -> None:
    inside = 0
    most = 0

    async def slow(_: Any) -> str:
        nonlocal inside, most
        inside += 1
        most = max(most, inside)
        await asyncio.sleep(0.05)
        inside -= 1
        return "done"

    does(stage, slow)
    stage.model.script(Reply(calls=[Call("calculator", {"expression": "1"}) for _ in range(3)]), Reply("ok"))
    stage.run()
    assert most == 3
    assert [call.output for call in stage.last_calls()] == ["done"] * 3


class Doing:
    """Builtin tools that all do the same."""

    def __init__(self, operation: Operation):
        self._operation = operation

    def operation(self, spec: ToolSpec) -> Operation:
        return self._operation


def does(stage: Stage, operation: Operation) -> None:
    """Says what the stage's builtin tools do."""
    stage.toolbox = Toolbox({ToolKind.BUILTIN: Doing(operation)})


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (Call("calculator", {}), "The arguments are wrong: at $: "),
        (Call("calculator", {"expression": 7}), "The arguments are wrong: at expression: 7 is not of type"),
        (Call("calculator", '{"expression": '), "they are no JSON object"),
        (Call("calculator", "[1]"), "they are no JSON object"),
        (Call("launch", {}), "There is no tool named launch"),
        (Call("calculator", {"expression": "1/0"}), "Division by zero"),
        (Call("current_time", {"timezone": "../etc"}), "There is no time zone"),
    ],
)
def test_the_model_hears_what_is_wrong_with_a_call_and_the_run_goes_on(stage: Stage, call: Call, message: str) -> None:
    stage.model.script(Reply(calls=[call]), Reply("Sorry."))
    stage.run()
    record = stage.last_calls()[0]
    assert (record.status, record.is_error) == (ToolCallStatus.FAILED, True)
    assert message in record.output
    assert message.split(":")[0] in stage.heard_by_model()
    assert stage.state.content == "Sorry."


def test_a_tool_that_crashes_or_hangs_is_a_failed_tool_and_its_secrets_stay_here(
    stage: Stage,
) -> None:
    async def crash(call: Any) -> str:
        if call.arguments["expression"] == "hang":
            await asyncio.sleep(60)
        raise RuntimeError("secret inside")

    does(stage, crash)
    stage.specs = [ToolSpec("calculator", ToolKind.BUILTIN, timeout_seconds=0.1)]
    asked = [Call("calculator", {"expression": text}) for text in ("hang", "crash")]
    stage.model.script(Reply(calls=asked), Reply("Sorry."))
    stage.run()
    assert [call.output for call in stage.last_calls()] == ["The tool took longer than 0.1 s", "The tool failed"]
    assert "secret inside" not in json.dumps(stage.model.requests)


def test_an_operation_tells_how_far_it_is(stage: Stage) -> None:
    async def slow(call: Any) -> str:
        for part in (1, 2):
            await call.tell(Progress(part, 2))
        return str(call.owner_id)

    does(stage, slow)
    stage.model.script(Reply(calls=[Call("current_time", {}, "c1")]), Reply("ok"))
    stage.run()
    assert stage.recorder.progress == [("c1", 1), ("c1", 2)]
    assert stage.last_calls()[0].output == "owner"


def test_an_output_that_is_too_long_is_cut_and_marked(stage: Stage) -> None:
    async def talk(_: Any) -> str:
        return '"' * 300_000

    does(stage, talk)
    stage.model.script(Reply(calls=[Call("calculator", {"expression": "1"})]), Reply("ok"))
    stage.run()
    call = stage.last_calls()[0]
    assert call.truncated
    assert len(msgspec.json.encode(call.output)) <= 256 * 1024
    assert call.output.endswith("[cut: the output was longer than 262144 bytes]")


def test_call_ids_that_a_provider_repeats_are_told_apart(stage: Stage) -> None:
    call = Call("calculator", {"expression": "1"}, "same")
    stage.model.script(Reply(calls=[call, call]), Reply(calls=[call]), Reply("ok"))
    stage.run()
    ids = {record.call_id for _, records in stage.recorder.saves for record in records}
    assert len(ids) == 3
    assert "same" in ids


def test_a_run_that_needs_approval_waits_and_goes_on_when_it_is_given(stage: Stage) -> None:
    stage.specs = [ToolSpec("calculator", ToolKind.BUILTIN, requires_approval=True, idempotent=True)]
    asked = [Call("calculator", {"expression": "2*3"}, "c1"), Call("current_time", {}, "c2")]
    stage.model.script(Reply("Wait.", calls=asked))
    waiting = stage.run()
    assert isinstance(waiting, Waiting)
    assert [(call.call_id, call.needs, call.arguments) for call in waiting.pending] == [
        ("c1", "approval", {"expression": "2*3"})
    ]
    assert [call.status for call in stage.last_calls()] == [ToolCallStatus.AWAITING_APPROVAL, ToolCallStatus.COMPLETED]
    stage.model.script(Reply("It is 6."))
    assert isinstance(stage.resume([Approved("c1")]), Finished)
    assert stage.state.content == "Wait.\n\nIt is 6."
    assert [call.output for call in stage.last_calls()] == [{"result": 6}]
    assert stage.recorder.events == [("ended", "calculator", ToolCallStatus.COMPLETED)]


def test_changed_arguments_are_told_to_the_model_which_keeps_its_own_call(stage: Stage) -> None:
    stage.specs = [ToolSpec("calculator", ToolKind.BUILTIN, requires_approval=True, idempotent=True)]
    stage.model.script(Reply(calls=[Call("calculator", {"expression": "2*3"}, "c1")]), Reply("ok"))
    stage.run()
    stage.resume([Approved("c1", {"expression": "4*4"})])
    heard = stage.heard_by_model()
    assert "4*4" in heard
    assert "16" in heard
    assert "2*3" in json.dumps(stage.model.requests[-1])
    assert stage.last_calls()[0].arguments == {"expression": "4*4"}


@pytest.mark.parametrize(
    ("answer", "status", "heard"),
    [
        (Rejected("c1", "not today"), ToolCallStatus.REJECTED, "A human rejected this call: not today"),
        (Expired("c1"), ToolCallStatus.EXPIRED, "Nobody allowed this call in time"),
        (Approved("c1", {"expression": 1}), ToolCallStatus.FAILED, "The arguments are wrong"),
    ],
)
def test_the_model_hears_why_a_call_was_not_made(
    stage: Stage, answer: Answered, status: ToolCallStatus, heard: str
) -> None:
    stage.specs = [ToolSpec("calculator", ToolKind.BUILTIN, requires_approval=True, idempotent=True)]
    stage.model.script(Reply(calls=[Call("calculator", {"expression": "2*3"}, "c1")]), Reply("ok"))
    stage.run()
    assert isinstance(stage.resume([answer]), Finished)
    assert stage.last_calls()[0].status == status
    assert heard in stage.heard_by_model()


def test_a_client_tool_waits_for_its_result(stage: Stage) -> None:
    stage.tools, stage.specs = ["open_door"], [CLIENT_TOOL]
    stage.model.script(Reply(calls=[Call("open_door", {"door": 1}, "c1"), Call("open_door", {"door": 2}, "c2")]))
    waiting = stage.run()
    assert isinstance(waiting, Waiting)
    assert [(call.call_id, call.needs) for call in waiting.pending] == [("c1", "result"), ("c2", "result")]
    still = stage.resume([Delivered("c1", {"open": True})])
    assert isinstance(still, Waiting)
    assert [call.call_id for call in still.pending] == ["c2"]
    stage.model.script(Reply("Both tried."))
    assert isinstance(stage.resume([Delivered("c2", "stuck", is_error=True)]), Finished)
    heard = stage.heard_by_model()
    assert "open" in heard
    assert "stuck" in heard


def test_a_client_tool_that_needs_approval_is_first_approved_and_then_answered(stage: Stage) -> None:
    spec = msgspec.structs.replace(CLIENT_TOOL, requires_approval=True)
    stage.tools, stage.specs = ["open_door"], [spec]
    stage.model.script(Reply(calls=[Call("open_door", {"door": 1}, "c1")]), Reply("ok"))
    first = stage.run()
    assert isinstance(first, Waiting)
    assert first.pending[0].needs == "approval"
    second = stage.resume([Approved("c1", {"door": 2})])
    assert isinstance(second, Waiting)
    assert (second.pending[0].needs, second.pending[0].arguments) == ("result", {"door": 2})
    assert isinstance(stage.resume([Approved("c1", {"door": 2}), Delivered("c1", "open")]), Finished)


@pytest.mark.parametrize(("idempotent", "output"), [(True, {"result": 2}), (False, None)])
def test_a_call_that_a_crash_interrupted_is_repeated_only_when_that_is_safe(
    stage: Stage, idempotent: bool, output: Any
) -> None:
    stage.specs = [ToolSpec("calculator", ToolKind.BUILTIN, idempotent=idempotent)]
    stage.model.script(Reply(calls=[Call("calculator", {"expression": "1+1"}, "c1")]), Reply("ok"))
    stage.recorder = Recorder(dies_at=1)
    stage.fails(Killed)
    assert stage.last_calls()[0].status == ToolCallStatus.RUNNING
    stage.resume(interrupted=frozenset({"c1"}))
    call = stage.last_calls()[0]
    if idempotent:
        assert (call.status, call.output) == (ToolCallStatus.COMPLETED, output)
    else:
        assert call.status == ToolCallStatus.INTERRUPTED
        assert "interrupted" in stage.heard_by_model()
    assert len(stage.model.requests) == 2


def test_a_run_goes_on_behind_the_step_whose_results_were_saved(stage: Stage) -> None:
    stage.model.script(Reply("One.", calls=[Call("calculator", {"expression": "1+1"}, "c1")]), Reply("Two."))
    stage.recorder = Recorder(dies_at=2)
    stage.fails(Killed)
    stage.resume()
    assert stage.recorder.steps == [(2, 50)]
    assert stage.state.content == "One.\n\nTwo."
    assert stage.state.usage.input_tokens == 14


@pytest.mark.parametrize(
    ("config", "error"),
    [
        ({"max_steps": 1}, MaxStepsExceeded),
        ({"max_total_tokens": 10}, MaxTotalTokensExceeded),
        ({"max_cost": 0.00001}, MaxCostExceeded),
    ],
)
def test_each_bound_ends_the_run_with_a_code_of_its_own_and_keeps_what_was_said(
    stage: Stage, config: dict[str, Any], error: type[AIAgentError]
) -> None:
    price = Price(1.0, 1.0)
    stage.access = msgspec.structs.replace(stage.access, prices=Prices({f"{stage.provider}/m": price}))
    stage.config = config
    stage.model.script(Reply("one two three four", calls=[Call("current_time")]), Reply("more"))
    raised = stage.fails(error)
    assert (raised.code, raised.status) == (error.code, 422)
    assert stage.state.content == "one two three four"
    assert len(stage.model.requests) == 1


def test_a_run_within_its_bounds_ends_well(stage: Stage) -> None:
    stage.config = {"max_steps": 2, "max_total_tokens": 18}
    stage.model.script(Reply("one two", calls=[Call("current_time")]), Reply("more now"))
    assert isinstance(stage.run(), Finished)
    assert stage.state.usage.input_tokens + stage.state.usage.output_tokens == 18


def test_a_run_makes_only_so_many_tool_calls(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ai_agent.execution.bounds.MAX_TOOL_CALLS", 2)
    stage.model.script(Reply(calls=[Call("current_time"), Call("current_time")]), Reply(calls=[Call("current_time")]))
    stage.fails(MaxToolCallsExceeded)
    assert len([event for event in stage.recorder.events if event[0] == "ended"]) == 2


def test_a_model_that_never_ends_is_stopped_while_it_speaks(stage: Stage) -> None:
    stage.config = {"max_total_tokens": 500}
    stage.model.script(Reply("over and over again ", endless=True))
    stage.fails(MaxTotalTokensExceeded)
    assert stage.state.usage.estimated
    assert 500 < len(stage.state.content) // 4 < 2000


def test_a_bound_on_the_cost_needs_a_price(stage: Stage) -> None:
    stage.config = {"max_cost": 1}
    raised = stage.fails(PriceUnknown)
    assert f"{stage.provider}/m" in raised.message
    assert stage.model.requests == []


def test_costs_add_up_over_steps(stage: Stage) -> None:
    stage.access = msgspec.structs.replace(stage.access, prices=Prices({f"{stage.provider}/m": Price(1.0, 10.0)}))
    stage.model.script(Reply("one", calls=[Call("current_time")]), Reply("two three"))
    stage.run()
    assert stage.state.usage.cost == pytest.approx((14 * 1 + 3 * 10) / 1e6)


def test_tokens_that_nobody_told_are_estimated(stage: Stage) -> None:
    stage.model.script(Reply("some words to count", usage=False))
    stage.run()
    assert stage.state.usage.estimated
    assert stage.state.usage.output_tokens == len("some words to count") // 4
    assert stage.state.usage.input_tokens > 0


@pytest.mark.parametrize("bad", [Reply(status=500), Reply(status=429, headers={"Retry-After": "0"})])
def test_what_may_pass_is_tried_again(stage: Stage, bad: Reply) -> None:
    stage.model.script(bad, bad, Reply("At last."))
    stage.run()
    assert stage.state.content == "At last."
    assert len(stage.model.requests) == 3


def test_it_is_tried_three_times_and_the_error_is_never_the_providers_own_words(stage: Stage) -> None:
    stage.model.script(*[Reply(status=500)] * 4)
    raised = stage.fails(ExternalServiceError)
    assert (raised.status, raised.retryable, len(stage.model.requests)) == (503, True, 3)
    assert "secret inside" not in str(raised)


def test_what_will_not_pass_is_not_tried_again(stage: Stage) -> None:
    stage.config = {"fallback_models": ["b"]}
    stage.model.script(Reply(status=400))
    raised = stage.fails(ExternalServiceError)
    assert (raised.status, len(stage.model.requests)) == (502, 1)


def test_what_was_heard_is_not_said_again(stage: Stage) -> None:
    stage.config = {"fallback_models": ["b"]}
    stage.model.script(Reply("one two three", reset_after=3))
    raised = stage.fails(ExternalServiceError)
    assert raised.retryable
    assert stage.state.content == stage.recorder.text != ""
    assert stage.state.usage.estimated
    assert len(stage.model.requests) == 1


def test_an_answer_that_ends_without_an_end_is_a_failure(stage: Stage) -> None:
    stage.model.script(Reply("half of", cut=True))
    raised = stage.fails(ExternalServiceError)
    assert raised.retryable
    assert stage.state.content == "half of"


def test_a_provider_that_hangs_is_left(stage: Stage) -> None:
    stage.config = {"timeout_seconds": 0.3}
    stage.model.script(*[Reply(hang=True)] * 3)
    raised = stage.fails(ExternalServiceError)
    assert raised.message == "The model provider did not answer in time"
    assert raised.retryable


def test_the_next_model_answers_when_one_does_not(stage: Stage) -> None:
    stage.config = {"fallback_models": ["b", "c"]}
    stage.model.script(*[Reply(status=529)] * 6, Reply("Here is c."))
    stage.run()
    assert [request["model"] for request in stage.model.requests] == ["m"] * 3 + ["b"] * 3 + ["c"]
    assert stage.state.model == "c"


def test_a_long_retry_after_goes_to_the_next_model_at_once(stage: Stage) -> None:
    stage.config = {"fallback_models": ["b"]}
    stage.model.script(Reply(status=429, headers={"Retry-After": "60"}), Reply("Here is b."))
    stage.run()
    assert [request["model"] for request in stage.model.requests] == ["m", "b"]


def test_without_another_model_the_client_hears_when_to_come_back(stage: Stage) -> None:
    stage.model.script(Reply(status=429, headers={"Retry-After": "60"}))
    assert stage.fails(ExternalServiceError).headers["Retry-After"] == "60"


def test_a_model_that_failed_five_times_is_not_asked(stage: Stage) -> None:
    stage.model.script(*[Reply(status=500)] * 5)
    stage.fails(ExternalServiceError)
    assert stage.fails(ExternalServiceError).message == "The model provider answered 500"
    raised = stage.fails(CircuitBreakerOpen)
    assert (raised.status, raised.details) == (503, {"service_name": stage.provider})
    assert 1 <= int(raised.headers["Retry-After"]) <= 30
    assert len(stage.model.requests) == 5
    stage.config = {"fallback_models": ["b"]}
    stage.run()
    assert stage.state.model == "b"


def test_an_impatient_agent_closes_the_way_for_nobody_else(stage: Stage) -> None:
    stage.config = {"timeout_seconds": 0.1}
    stage.model.script(*[Reply(hang=True)] * 6)
    stage.fails(ExternalServiceError)
    stage.fails(ExternalServiceError)
    stage.config = {}
    assert isinstance(stage.run(), Finished)


def test_one_users_rate_limit_closes_the_way_for_nobody_else(stage: Stage) -> None:
    stage.model.script(*[Reply(status=429, headers={"Retry-After": "60"})] * 6)
    for _ in range(6):
        stage.fails(ExternalServiceError)
    assert isinstance(stage.run(), Finished)


def test_the_local_model_is_offered_no_tools(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    async def endpoint(_: LocalModel) -> LocalEndpoint:
        return LocalEndpoint(f"{stage.model.url}/v1", "k")

    monkeypatch.setattr(LocalModel, "endpoint", endpoint)
    stage.provider = "local"
    stage.run()
    assert "tools" not in stage.model.requests[0]
    assert stage.state.unavailable_tools == ["calculator", "current_time"]
    assert stage.state.usage.cost == 0


def test_retries_end_with_their_budget(stage: Stage) -> None:
    while stage.access.retries.take():
        pass
    stage.model.script(Reply(status=500))
    stage.fails(ExternalServiceError)
    assert len(stage.model.requests) == 1


def test_a_cancel_keeps_what_was_said_and_leaves_the_provider(stage: Stage) -> None:
    async def say(kind: str, text: str) -> None:
        stage.recorder.said.append((kind, text))
        if text == " two":
            task = asyncio.current_task()
            assert task is not None
            task.cancel()
            await asyncio.sleep(0)

    stage.recorder.say = say  # type: ignore[method-assign]  # a client that cancels in the middle
    stage.model.script(Reply("one two three four " + "more " * 20, delay=0.05))
    with pytest.raises(asyncio.CancelledError):
        stage.run()
    assert stage.state.content == "one two"
    assert stage.state.usage.estimated
    assert wait_for_disconnect(stage.model)


def wait_for_disconnect(model: ModelServer) -> bool:
    """Whether the model server noticed within two seconds that its client has left."""
    deadline = time.monotonic() + 2
    while not model.disconnects and time.monotonic() < deadline:
        time.sleep(0.02)
    return model.disconnects > 0


def test_the_oldest_messages_go_when_the_runs_own_fill_the_window(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def talk(_: Any) -> str:
        return "x" * 9000

    does(stage, talk)
    monkeypatch.setattr("ai_agent.execution.model_providers.CLOUD_CONTEXT_TOKENS", 4000)
    stage.tools = ["calculator"]
    stage.branch = [HistoryEntry(Role.USER, "old" * 1000), HistoryEntry(Role.ASSISTANT, "ah"), *stage.branch]
    stage.model.script(Reply(calls=[Call("calculator", {"expression": "1"})]), Reply("ok"))
    stage.run()
    assert "oldold" in json.dumps(stage.model.requests[0])
    assert "oldold" not in json.dumps(stage.model.requests[1])
    assert stage.state.context_truncated
