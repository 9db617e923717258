"""What a user writes with the generated client. Run as a program of its own, with the client on its path."""

import sys
import uuid

from ai_agent_api_client import AuthenticatedClient
from ai_agent_api_client.api.agents import create_agent
from ai_agent_api_client.api.executions import execute_agent, list_execution_events
from ai_agent_api_client.api.messages import create_message, get_message, list_messages
from ai_agent_api_client.api.sessions import create_session, get_session, patch_session
from ai_agent_api_client.models import (
    CreateAgent,
    CreateMessage,
    CreateSession,
    ErrorBody,
    EventPage,
    ExecuteAgent,
    ExecutionAnswer,
    Message,
    MessagePage,
    ModelConfig,
    PatchSession,
    Provider,
    Session,
    SessionStatus,
    TokenEvent,
)


def conversation(client: AuthenticatedClient) -> Session:
    session = create_session.sync(client=client, body=CreateSession(title="From Python"))
    assert isinstance(session, Session)
    assert session.status is SessionStatus.IDLE
    for content in ("one", "two", "three"):
        posted = create_message.sync(session.id, client=client, body=CreateMessage(content=content))
        assert isinstance(posted, Message)
    heard: list[str] = []
    page = list_messages.sync(session.id, client=client, limit=2)
    while isinstance(page, MessagePage):
        heard += [message.content for message in page.items]
        if page.next_cursor is None:
            break
        page = list_messages.sync(session.id, client=client, limit=2, cursor=page.next_cursor)
    assert heard == ["one", "two", "three"], heard
    return session


def preconditions(client: AuthenticatedClient, session: Session) -> None:
    patched = patch_session.sync_detailed(session.id, client=client, body=PatchSession(title=None))
    assert isinstance(patched.parsed, Session)
    assert patched.parsed.title is None
    unchanged = get_session.sync_detailed(session.id, client=client, if_none_match=patched.headers["etag"])
    assert unchanged.status_code == 304
    stale = patch_session.sync(session.id, client=client, body=PatchSession(title="late"), if_match='"999"')
    assert isinstance(stale, ErrorBody)
    assert stale.code == "precondition_failed"


def run(client: AuthenticatedClient, session: Session) -> None:
    model = ModelConfig(provider=Provider.OPENAI, model="scripted")
    agent = create_agent.sync(client=client, body=CreateAgent(name=f"python-{uuid.uuid4()}", model_config=model))
    assert not isinstance(agent, ErrorBody)
    assert agent is not None
    answer = execute_agent.sync(agent.id, client=client, body=ExecuteAgent(message="hello", session_id=session.id))
    assert isinstance(answer, ExecutionAnswer)
    assert answer.content == "You said: hello"
    events = list_execution_events.sync(answer.execution_id, client=client)
    assert isinstance(events, EventPage)
    spoken = [event.data.text for event in events.items if isinstance(event, TokenEvent)]
    assert "".join(spoken) == "You said: hello"


def errors(client: AuthenticatedClient) -> None:
    missing = get_message.sync(uuid.uuid4(), client=client)
    assert isinstance(missing, ErrorBody)
    assert missing.code == "not_found"
    invalid = create_agent.sync(client=client, body=CreateAgent(name=" "))
    assert isinstance(invalid, ErrorBody)
    assert isinstance(invalid.validation_errors, list)
    assert invalid.validation_errors[0].field == "name"


def main(url: str, key: str) -> None:
    with AuthenticatedClient(base_url=url, token=key, raise_on_unexpected_status=False) as client:
        session = conversation(client)
        preconditions(client, session)
        run(client, session)
        errors(client)


if __name__ == "__main__":
    main(*sys.argv[1:])
