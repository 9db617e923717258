"""The lines of an exported session."""

import msgspec

from ai_agent.domain.executions import Execution
from ai_agent.domain.messages import Message
from ai_agent.domain.sessions import Session


class SessionLine(msgspec.Struct, tag="session"):
    """The exported session."""

    data: Session


class MessageLine(msgspec.Struct, tag="message"):
    """One of its messages."""

    data: Message


class ExecutionLine(msgspec.Struct, tag="execution"):
    """One of its executions."""

    data: Execution


ExportLine = SessionLine | MessageLine | ExecutionLine
