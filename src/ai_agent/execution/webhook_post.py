"""One attempt to deliver a webhook: a POST through the outbound guard. The library is imported by the first one."""

import asyncio
import math
from collections.abc import Mapping
from datetime import UTC
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING

import msgspec
import structlog

from ai_agent.domain.fields import now
from ai_agent.security.outbound import OutboundGuard, OutboundRefused

if TYPE_CHECKING:
    import httpx2

ATTEMPT_SECONDS = 10.0
"""From the first look at the name to the answer's headers."""

log = structlog.get_logger()


class Result(msgspec.Struct, frozen=True):
    """What came of an attempt: a status, or an error that says why there is none. `retry_after` is in seconds."""

    status: int | None
    error: str | None
    retry_after: float = 0.0


class WebhookPost:
    def __init__(self, guard: OutboundGuard):
        self._guard = guard

    async def __call__(self, url: str, headers: Mapping[str, str], body: str) -> Result:
        """Raises nothing: whatever a receiver does is a result."""
        import httpx2

        try:
            async with asyncio.timeout(ATTEMPT_SECONDS):
                return await self._answer(url, headers, body)
        except (TimeoutError, httpx2.TimeoutException):
            return Result(None, f"No answer within {ATTEMPT_SECONDS:g} s")
        except OutboundRefused as error:
            return Result(None, str(error))
        except (httpx2.HTTPError, httpx2.InvalidURL) as error:
            return Result(None, f"No connection, or it broke: {type(error).__name__}")
        except Exception:
            log.exception("webhook_crashed")
            return Result(None, "It could not be sent")

    async def _answer(self, url: str, headers: Mapping[str, str], body: str) -> Result:
        from ai_agent.security.outbound_http import guarded_client

        # A client for each attempt: cookies of a receiver are not for the next one. The answer's body is never read.
        async with (
            guarded_client(self._guard, max_bytes=0, timeout=_timeout()) as http,
            http.stream("POST", url, headers=headers, content=body.encode()) as answer,
        ):
            if answer.is_success:
                return Result(answer.status_code, None)
            error = f"The receiver answered {answer.status_code}"
            return Result(answer.status_code, error, seconds_of(answer.headers.get("retry-after", "")))


def _timeout() -> "httpx2.Timeout":
    import httpx2

    return httpx2.Timeout(ATTEMPT_SECONDS)


def seconds_of(retry_after: str) -> float:
    """`Retry-After`, in seconds or as a date, as seconds from now; 0 for what is neither. Source: RFC 9110, 10.2.3."""
    if retry_after.isascii() and retry_after.isdigit():
        return float(retry_after[:10])
    try:
        moment = parsedate_to_datetime(retry_after)
    except ValueError:
        return 0.0
    aware = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    return max(0.0, float(math.ceil((aware - now()).total_seconds())))
