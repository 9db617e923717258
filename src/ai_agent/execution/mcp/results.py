"""What a model hears of an MCP tool's result."""

from typing import Any

from ai_agent.domain.fields import JsonObject
from ai_agent.execution.mcp.failures import said


def output_of(result: JsonObject) -> tuple[Any, bool]:
    """The output, and whether the tool says that it failed. Structured content is JSON, text is text.

    What a model cannot read here, images and the like, is named in words.
    """
    failed = result.get("isError") is True
    structured = result.get("structuredContent")
    if structured is not None and not failed:
        return structured, False
    content = result.get("content")
    parts = [_words(part) for part in content if isinstance(part, dict)] if isinstance(content, list) else []
    text = "\n".join(parts)
    return text or ("The tool failed and did not say why" if failed else ""), failed


def _words(part: JsonObject) -> str:
    match part:
        case {"type": "text", "text": str(text)}:
            return text
        case {"type": "image" | "audio" as kind, "data": str(data)}:
            return f"[{kind}, {said(part.get('mimeType'))}, {len(data.rstrip('=')) * 3 // 4} bytes]"
        case {"type": "resource", "resource": {"text": str(text)}}:
            return text
        case {"type": "resource", "resource": {"uri": uri}}:
            return f"[resource {said(uri)}]"
        case {"type": "resource_link", "uri": uri}:
            return f"[resource {said(part.get('name') or uri)}: {said(uri)}]"
        case _:
            return f"[content of type {said(part.get('type'))}]"
