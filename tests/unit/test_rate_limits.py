"""Limits as handlers declare them, in applications of a few lines."""

import asyncio
import itertools
import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, cast

import httpx
import pytest
from msgspec import msgpack

import ai_agent.api  # noqa: F401  # isort: skip  # before Litestar; it says why
from litestar import Litestar, Request, delete, get, post, route
from litestar.handlers import HTTPRouteHandler
from litestar.params import FromPath, FromQuery

from ai_agent.api.admission import Admission
from ai_agent.api.errors import answer_error
from ai_agent.api.guards import IDENTIFIED, PUBLIC
from ai_agent.api.middleware import OuterWrapper
from ai_agent.api.parameters import declare_parameters
from ai_agent.api.proxies import TrustedProxies
from ai_agent.api.rate_limits import BULK, EXEMPT, RateLimit, declare_rate_limits, limited
from ai_agent.domain.errors import AuthenticationError, ConfigurationError
from ai_agent.domain.identity import Principal, Tier
from ai_agent.domain.rate_limits import RouteClass, Strategy
from ai_agent.services.credentials import LOOKED_AT, Credentials
from ai_agent.services.identity import EndedCredential, IdentityService
from ai_agent.services.rate_limits import RateLimitService
from ai_agent.settings import load_settings
from ai_agent.storage.limiter import MemoryLimiter

PEOPLE = {
    "default": Principal("dora", frozenset(), Tier.DEFAULT),
    "authenticated": Principal("ada", frozenset(), Tier.AUTHENTICATED),
    "premium": Principal("pia", frozenset(), Tier.PREMIUM),
}


class Known:
    """Knows everybody by name."""

    def known(self, token: str) -> Principal | None:
        return PEOPLE.get(token)

    looked_at = 0

    def may_be_guessed(self, token: str) -> bool:
        return not token.startswith("jwt")

    async def verify(self, token: str) -> Principal:
        self.looked_at += 1
        await asyncio.sleep(0)
        if token == "jwt-good":
            return PEOPLE["authenticated"]
        raise EndedCredential if token == "jwt-ended" else AuthenticationError


class Asked:
    """An application and its limits; each test says how time passes."""

    def __init__(self, *handlers: HTTPRouteHandler, **settings: str):
        self.now = 1_000_000
        self.identity = Known()
        environment = {f"AI_AGENT_{name.upper()}": value for name, value in settings.items()}
        self.settings = load_settings(environment)
        limiter = MemoryLimiter(self.settings.rate_limit_strategy, lambda: self.now)
        service = RateLimitService(self.settings, limiter)
        credentials = Credentials(cast("IdentityService", self.identity), service)
        app = Litestar(
            handlers,
            middleware=[Admission(credentials, service, required=True)],
            exception_handlers={Exception: answer_error},
            openapi_config=None,
        )
        declare_rate_limits(app, service)
        declare_parameters(app)
        proxies = TrustedProxies(self.settings.proxy_networks)
        app.asgi_handler = OuterWrapper(app.asgi_handler, proxies, lambda: False, timing=False)
        self._app = app

    def ask(self, target: str, method: str = "GET", **options: Any) -> httpx.Response:
        return asyncio.run(self.asked(target, method, **options))

    async def asked(
        self,
        target: str,
        method: str = "GET",
        *,
        address: str = "10.1.1.1",
        headers: Mapping[str, str] = {},
        body: Any = b"",
    ) -> httpx.Response:
        path, _, query = target.partition("?")
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        scope = {
            "type": "http",
            "method": method,
            "path": path,
            "query_string": query.encode(),
            "scheme": "http",
            "client": (address, 1),
            "headers": [(name.lower().encode(), value.encode()) for name, value in headers.items()],
        }
        sent: list[Any] = []

        async def receive() -> Any:
            return {"type": "http.request", "body": content, "more_body": False}

        async def send(message: Any) -> None:
            sent.append(message)

        await self._app(cast("Any", scope), receive, send)
        answer = b"".join(message["body"] for message in sent[1:])
        return httpx.Response(sent[0]["status"], headers=sent[0]["headers"], content=answer)

    def allowed(self, *paths: str, **options: Any) -> list[bool]:
        return [self.ask(path, **options).status_code < 400 for path in paths]


def bearer(tier: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {tier}"}


@get("/a", opt=PUBLIC | limited(RateLimit(limit="2/minute")))
async def a() -> None: ...


@get("/things/{number:int}", opt=PUBLIC | limited(RateLimit(limit="2/minute")))
async def things(number: FromPath[int]) -> None: ...


def test_a_limit_stands_beside_its_handler() -> None:
    assert Asked(a).allowed("/a", "/a", "/a") == [True, True, False]


def test_the_key_is_the_route_template_whatever_the_ids_in_the_path() -> None:
    assert Asked(things).allowed("/things/1", "/things/2", "/things/3") == [True, True, False]


def test_each_operation_is_counted_by_itself() -> None:
    assert Asked(a, things).allowed("/a", "/a", "/things/1", "/things/1") == [True] * 4


def test_a_limit_may_have_several_windows_and_what_is_refused_costs_none_of_them() -> None:
    @get("/w", opt=PUBLIC | limited(RateLimit(limit="2/second;3/minute")))
    async def w() -> None: ...

    asked = Asked(w)
    assert asked.allowed(*["/w"] * 9) == [True, True] + [False] * 7
    asked.now += 1001
    assert asked.allowed("/w", "/w") == [True, False]
    asked.now += 1001
    refused = asked.ask("/w").json()
    assert refused["details"]["limit"] == "3 per 1 minute"


def test_operations_may_share_a_limit() -> None:
    shared = limited(RateLimit(limit="3/minute", scope="expensive"))

    @get("/one", opt=PUBLIC | shared)
    async def one() -> None: ...

    @get("/two", opt=PUBLIC | shared)
    async def two() -> None: ...

    asked = Asked(one, two)
    assert asked.allowed("/one", "/two", "/one", "/two") == [True, True, True, False]
    assert asked.ask("/one").json()["details"]["scope"] == "expensive"


def test_an_exempt_operation_is_never_counted() -> None:
    @get("/free", opt=PUBLIC | EXEMPT)
    async def free() -> None: ...

    asked = Asked(free, rate_limit_tier_default="1/minute")
    assert asked.allowed(*["/free"] * 5) == [True] * 5
    assert "x-ratelimit-limit" not in asked.ask("/free").headers


def test_a_limit_may_let_some_requests_through_uncounted() -> None:
    internal = RateLimit(limit="1/minute", exempt_when=lambda request: request.headers.get("x-probe") == "yes")

    @get("/e", opt=PUBLIC | limited(internal))
    async def e() -> None: ...

    asked = Asked(e)
    assert asked.allowed("/e", "/e", "/e", headers={"X-Probe": "yes"}) == [True] * 3
    assert asked.allowed("/e", "/e") == [True, False]


def test_a_limit_may_be_for_some_methods_only() -> None:
    @route(
        "/m",
        http_method=["GET", "POST"],
        opt=PUBLIC | limited(RateLimit(limit="1/minute", methods=frozenset({"POST"}))),
    )
    async def m() -> None: ...

    asked = Asked(m)
    assert asked.allowed("/m", "/m", method="POST") == [True, False]
    assert asked.allowed("/m", "/m", "/m") == [True] * 3


@pytest.mark.parametrize(("per_method", "allowed"), [(False, False), (True, True)])
def test_methods_of_an_operation_are_counted_together_or_each_by_itself(per_method: bool, allowed: bool) -> None:
    @route("/m", http_method=["GET", "POST"], opt=PUBLIC | limited(RateLimit(limit="1/minute", per_method=per_method)))
    async def m() -> None: ...

    asked = Asked(m)
    assert asked.allowed("/m") == [True]
    assert asked.allowed("/m", method="POST") == [allowed]


def test_a_request_may_cost_more_than_one() -> None:
    @get("/c", opt=PUBLIC | limited(RateLimit(limit="5/minute", cost=2)))
    async def c() -> None: ...

    assert Asked(c).allowed("/c", "/c", "/c") == [True, True, False]


def test_the_cost_may_depend_on_the_request() -> None:
    async def asked_for(request: Request[Any, Any, Any]) -> int:
        return int(request.query_params["n"])

    @get("/c", opt=PUBLIC | limited(RateLimit(limit="5/minute", cost=asked_for)))
    async def c(n: FromQuery[int]) -> None: ...

    assert Asked(c).allowed("/c?n=3", "/c?n=3", "/c?n=2", "/c?n=1") == [True, False, True, False]


def test_a_cost_above_the_limit_says_so_and_names_no_time() -> None:
    @get("/c", opt=PUBLIC | limited(RateLimit(limit="5/minute", cost=6)))
    async def c() -> None: ...

    refused = Asked(c).ask("/c")
    assert (refused.status_code, refused.json()["code"]) == (429, "rate_limit_error")
    assert refused.json()["message"] == "This request costs 6, and the limit is 5 per 1 minute: send it in parts"
    assert refused.json()["details"] == {"limit": "5 per 1 minute", "scope": "/c", "retry_after": None}
    assert "retry-after" not in refused.headers
    assert (refused.headers["x-ratelimit-limit"], refused.headers["x-ratelimit-remaining"]) == ("5", "5")


@post("/many", opt=PUBLIC | BULK)
async def many(request: Request[Any, Any, Any]) -> list[Any]:
    return list(await request.json())


def test_a_bulk_call_costs_one_of_its_class_and_its_items_of_the_total() -> None:
    asked = Asked(many, rate_limit_tier_default="10/minute", rate_limit_bulk="3/minute")
    one = asked.ask("/many", "POST", body=[1, 2, 3, 4, 5, 6, 7])
    assert one.json() == [1, 2, 3, 4, 5, 6, 7], "the handler still has the body"
    refused = asked.ask("/many", "POST", body=[1, 2, 3, 4])
    assert refused.json()["details"]["scope"] == "total"
    assert asked.ask("/many", "POST", body=[1, 2]).headers["x-ratelimit-remaining"] == "1"


@pytest.mark.parametrize("media_type", ["application/x-msgpack", " Application/X-MsgPack; x=y"])
def test_items_are_counted_however_the_media_type_is_spelt(media_type: str) -> None:
    @post("/packed", opt=PUBLIC | BULK)
    async def packed() -> None: ...

    asked = Asked(packed, rate_limit_tier_default="60/minute", rate_limit_bulk="90/minute")
    answer = asked.ask("/packed", "POST", headers={"Content-Type": media_type}, body=msgpack.encode([{}] * 50))
    assert answer.headers["x-ratelimit-remaining"] == "10"


def test_who_shows_no_credentials_is_not_asked_what_it_would_have_cost() -> None:
    async def never(_: Request[Any, Any, Any]) -> int:
        raise AssertionError("the body is read for somebody who is refused in any case")

    @post("/dear", opt=IDENTIFIED | limited(RouteClass.BULK, total_cost=never))
    async def dear() -> None: ...

    answer = Asked(dear).ask("/dear", "POST", body=[1] * 50)
    assert (answer.status_code, answer.headers["x-ratelimit-remaining"]) == (401, "99")


def test_more_items_than_any_call_takes_cost_one_and_are_left_to_the_handler() -> None:
    asked = Asked(many, rate_limit_tier_default="100/minute", rate_limit_bulk="200/minute")
    assert asked.ask("/many", "POST", body=[1] * 101).headers["x-ratelimit-remaining"] == "99"


def test_functions_of_the_request_know_who_asks() -> None:
    def plan(request: Request[Any, Any, Any]) -> str:
        return "2/minute" if request.user.subject == "ada" else "1/minute"

    @get("/u", opt=IDENTIFIED | limited(RateLimit(limit=plan, key=lambda request: request.user.subject)))
    async def u() -> None: ...

    asked = Asked(u)
    assert asked.allowed("/u", "/u", "/u", headers=bearer("authenticated")) == [True, True, False]
    assert asked.allowed("/u", "/u", headers=bearer("premium")) == [True, False]


@pytest.mark.parametrize("body", [b"", b"{}", b"[", b"[" * 5000, b'"text"', b"[]", b"\xff"])
def test_a_body_that_is_no_list_costs_one(body: bytes) -> None:
    @post("/many", opt=PUBLIC | BULK)
    async def anything() -> None: ...

    answer = Asked(anything, rate_limit_tier_default="10/minute", rate_limit_bulk="20/minute").ask(
        "/many", "POST", body=body
    )
    assert answer.headers["x-ratelimit-remaining"] == "9"


def test_a_limit_may_be_a_function_of_the_request() -> None:
    def plan(request: Request[Any, Any, Any]) -> str:
        return "3/minute" if request.headers.get("x-plan") == "gold" else "1/minute"

    @get("/d", opt=PUBLIC | limited(RateLimit(limit=plan)))
    async def d() -> None: ...

    asked = Asked(d)
    assert asked.allowed("/d", "/d") == [True, False]
    assert asked.allowed("/d", "/d", "/d", "/d", headers={"X-Plan": "gold"}) == [True, True, True, False]


def test_whose_requests_are_counted_together_may_be_a_function_of_the_request() -> None:
    by_tenant = RateLimit(limit="1/minute", key=lambda request: request.headers["x-tenant"])

    @get("/k", opt=PUBLIC | limited(by_tenant))
    async def k() -> None: ...

    asked = Asked(k)
    assert asked.allowed("/k", "/k", headers={"X-Tenant": "a"}) == [True, False]
    assert asked.allowed("/k", address="10.9.9.9", headers={"X-Tenant": "a"}) == [False]
    assert asked.allowed("/k", headers={"X-Tenant": "b"}) == [True]


def test_a_limit_may_have_a_message_of_its_own() -> None:
    @get("/s", opt=PUBLIC | limited(RateLimit(limit="1/minute", message="The report is made once a minute")))
    async def s() -> None: ...

    asked = Asked(s)
    asked.ask("/s")
    assert asked.ask("/s").json()["message"] == "The report is made once a minute"


@get("/read", opt=IDENTIFIED)
async def read() -> None: ...


@post("/make", opt=IDENTIFIED | limited(RouteClass.SESSION_CREATE))
async def make() -> None: ...


@delete("/gone", opt=IDENTIFIED)
async def gone() -> None: ...


@pytest.mark.parametrize(("tier", "factor"), [("default", 1), ("authenticated", 10), ("premium", 50)])
def test_each_tier_has_its_multiple_of_a_class(tier: str, factor: int) -> None:
    asked = Asked(read, make, gone)
    called = [("/read", "GET"), ("/make", "POST"), ("/gone", "DELETE")]
    found = [asked.ask(*call, headers=bearer(tier)).headers["ratelimit-policy"] for call in called]
    total = {1: 100, 10: 1000, 50: 5000}[factor]
    classes = [("read", 100), ("session_create", 10), ("write", 50)]
    assert found == [f'"total";q={total};w=60, "{name}";q={amount * factor};w=60' for name, amount in classes]


def test_operations_of_a_class_are_counted_together() -> None:
    @get("/other", opt=IDENTIFIED)
    async def other() -> None: ...

    asked = Asked(read, other, rate_limit_read="2/minute", rate_limit_multiplier_authenticated="1")
    assert asked.allowed("/read", "/other", "/read", headers=bearer("authenticated")) == [True, True, False]


def test_the_multiplier_is_a_setting() -> None:
    asked = Asked(make, rate_limit_session_create="10/minute;100/hour", rate_limit_multiplier_authenticated="1")
    answers = [asked.ask("/make", "POST", headers=bearer("authenticated")) for _ in range(11)]
    assert [answer.status_code for answer in answers] == [201] * 10 + [429]
    assert answers[0].headers["ratelimit-policy"].endswith('"session_create";q=10;w=60, "session_create";q=100;w=3600')


def test_headers_are_whole_numbers_of_the_tightest_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ai_agent.api.rate_limits.time.time", lambda: 1_767_268_800.25)
    asked = Asked(a)
    asked.ask("/a")
    asked.now += 10_400
    headers = asked.ask("/a").headers
    assert {name: headers[name] for name in headers if "ratelimit" in name} == {
        "x-ratelimit-limit": "2",
        "x-ratelimit-remaining": "0",
        "x-ratelimit-reset": "1767268850",
        "ratelimit-policy": '"total";q=100;w=60, "/a";q=2;w=60',
        "ratelimit": '"/a";r=0;t=50',
    }


def test_what_is_refused_says_when_to_come_again_and_that_is_true_to_the_second() -> None:
    asked = Asked(a)
    asked.allowed("/a", "/a")
    asked.now += 20_500
    refused = asked.ask("/a")
    assert refused.headers["retry-after"] == "40"
    assert refused.json()["details"] == {"limit": "2 per 1 minute", "scope": "/a", "retry_after": 40}
    assert refused.headers["x-ratelimit-remaining"] == "0"
    asked.now += 39_000
    assert asked.allowed("/a") == [False]
    asked.now += 1_000
    assert asked.allowed("/a") == [True]


def test_the_strategy_is_a_setting() -> None:
    asked = Asked(a, rate_limit_strategy="fixed-window")
    assert asked.settings.rate_limit_strategy is Strategy.FIXED_WINDOW
    asked.ask("/a")
    asked.now += 50_000
    asked.ask("/a")
    asked.now += 10_000
    assert asked.allowed("/a", "/a") == [True, True]


def test_limits_can_be_switched_off() -> None:
    asked = Asked(a, rate_limit_enabled="false")
    assert asked.allowed(*["/a"] * 5) == [True] * 5
    assert [asked.ask("/a", headers={"Authorization": "Bearer bad"}).status_code for _ in range(30)] == [200] * 30


@pytest.mark.parametrize(
    "text",
    [
        "10/0minute",
        "10 per 0 hour",
        "10/fortnight",
        "ten/minute",
        "",
        "10/minute;",
        "0/minute",
        "-1/minute",
        "10 a minute",
    ],
)
def test_a_limit_that_cannot_be_read_stops_the_start_by_its_name(text: str) -> None:
    if text:
        with pytest.raises(ConfigurationError, match="AI_AGENT_RATE_LIMIT_READ"):
            Asked(a, rate_limit_read=text)

    @get("/x", opt=PUBLIC | limited(RateLimit(limit=text)))
    async def x() -> None: ...

    with pytest.raises(ConfigurationError, match="/x"):
        Asked(x)


def test_a_number_alone_is_meant_per_minute() -> None:
    assert Asked(read, rate_limit_read="7").ask("/read", headers=bearer("default")).headers["x-ratelimit-limit"] == "7"


def test_who_shows_no_credentials_is_counted_by_address_and_told_so() -> None:
    asked = Asked(read, rate_limit_tier_default="2/minute")
    answers = [asked.ask("/read").status_code for _ in range(3)]
    assert answers == [401, 401, 429]
    assert asked.ask("/read", address="10.1.1.2").status_code == 401
    assert asked.ask("/read", headers=bearer("authenticated")).status_code == 200


@pytest.mark.parametrize(
    ("one", "other", "together"),
    [
        ("2001:db8:1:2::1", "2001:db8:1:2:ffff::9", True),
        ("2001:db8:1:2::1", "2001:db8:1:3::1", False),
        ("::ffff:10.0.0.1", "10.0.0.1", True),
        ("10.0.0.1", "10.0.0.2", False),
    ],
)
def test_addresses_of_one_network_are_counted_together(one: str, other: str, together: bool) -> None:
    asked = Asked(a)
    asked.allowed("/a", "/a", address=one)
    assert asked.allowed("/a", address=other) == [not together]


FORWARDED = [
    ("10.0.0.0/8", "10.0.0.9", "203.0.113.7:5678", "203.0.113.7"),
    ("10.0.0.0/8", "10.0.0.9", "[2001:db8::7]:5678", "2001:db8::7"),
    ("10.0.0.0/8", "10.0.0.9", "fe80::1%eth0", "fe80::1"),
    ("10.0.0.0/8", "10.0.0.9", '"203.0.113.7"', "203.0.113.7"),
    # Nobody is trusted: what the header says is nothing.
    ("", "10.0.0.9", "1.2.3.4", "10.0.0.9"),
    # A proxy of ours: the last address that is none of ours.
    ("10.0.0.0/8", "10.0.0.9", "1.2.3.4", "1.2.3.4"),
    ("10.0.0.0/8", "10.0.0.9", "6.6.6.6, 1.2.3.4, 10.0.0.7", "1.2.3.4"),
    ("10.0.0.0/8", "10.0.0.9", "6.6.6.6, nonsense, 10.0.0.7", "10.0.0.7"),
    ("10.0.0.0/8", "10.0.0.9", "", "10.0.0.9"),
    # Somebody else, who says that he is a proxy.
    ("10.0.0.0/8", "5.5.5.5", "1.2.3.4", "5.5.5.5"),
    ("10.0.0.0/8", "::ffff:10.0.0.9", "1.2.3.4", "1.2.3.4"),
    ("fd00::/8", "fd00::1", "2001:db8::7", "2001:db8::7"),
]


@pytest.mark.parametrize(("trusted", "peer", "forwarded", "client"), FORWARDED)
def test_forwarded_addresses_count_only_from_trusted_proxies(
    trusted: str, peer: str, forwarded: str, client: str
) -> None:
    @get("/who", opt=PUBLIC | EXEMPT)
    async def who(request: Request[Any, Any, Any]) -> str:
        return str(request.scope["client_address"])  # type: ignore[typeddict-item]  # ours

    asked = Asked(who, trusted_proxies=trusted)
    assert asked.ask("/who", address=peer, headers={"X-Forwarded-For": forwarded}).text == client


@pytest.mark.parametrize(
    ("trusted", "scheme", "told"),
    [
        ("10.0.0.0/8", "https", True),
        ("10.0.0.0/8", "https, http", True),
        ("10.0.0.0/8", "http", False),
        ("", "https", False),
    ],
)
def test_a_trusted_proxy_says_that_the_client_uses_tls(trusted: str, scheme: str, told: bool) -> None:
    asked = Asked(a, trusted_proxies=trusted)
    answer = asked.ask("/a", address="10.0.0.9", headers={"X-Forwarded-Proto": scheme})
    assert ("strict-transport-security" in answer.headers) is told


def test_bad_credentials_are_counted_by_address_and_beyond_the_limit_none_are_looked_at() -> None:
    asked = Asked(read)
    answers = [asked.ask("/read", headers=bearer(f"bad-{number}")) for number in range(25)]
    assert [answer.status_code for answer in answers] == [401] * 19 + [429] * 6
    assert answers[-1].json()["details"] == {"limit": "19 per 1 minute", "scope": "auth_failure", "retry_after": 60}
    assert answers[-1].headers["ratelimit"] == '"auth_failure";r=0;t=60'
    assert asked.ask("/read", headers=bearer("bad"), address="10.1.1.2").status_code == 401
    assert asked.ask("/read", headers=bearer("authenticated")).status_code == 200, "who was known before stays known"


def test_tokens_whose_signature_is_right_are_looked_at_also_where_keys_are_not() -> None:
    asked = Asked(read)
    assert [asked.ask("/read", headers=bearer("bad")).status_code for _ in range(20)] == [401] * 19 + [429]
    assert asked.ask("/read", headers=bearer("jwt-good")).status_code == 200


def test_a_credential_that_has_ended_is_no_guess_and_counts_as_none() -> None:
    asked = Asked(read, rate_limit_tier_default="30/minute")
    codes = [asked.ask("/read", headers=bearer("jwt-ended")).status_code for _ in range(31)]
    assert codes == [401] * 30 + [429]
    assert asked.ask("/read", headers=bearer("bad")).status_code == 401


def test_of_many_bad_credentials_at_once_hardly_more_are_looked_at_than_one_after_the_other() -> None:
    asked = Asked(read)

    async def burst() -> list[int]:
        calls = [asked.asked("/read", headers=bearer(f"bad-{number}")) for number in range(200)]
        return [answer.status_code for answer in await asyncio.gather(*calls)]

    codes = asyncio.run(burst())
    assert (codes.count(401), codes.count(429)) == (19, 181)
    assert asked.identity.looked_at <= 19 + LOOKED_AT


@pytest.mark.parametrize("credentials", ["Basic dXNlcjpwYXNz", "Bearer", "Bearer ", "nonsense", ""])
def test_credentials_of_another_kind_are_bad_credentials(credentials: str) -> None:
    asked = Asked(read, rate_limit_auth_failure="1/minute")
    answers = [asked.ask("/read", headers={"Authorization": credentials}).status_code for _ in range(2)]
    assert answers == [401, 429]


def counted(found: Callable[[], float], call: Callable[[], object]) -> float:
    before = found()
    call()
    return found() - before


def test_decisions_are_counted() -> None:
    from prometheus_client import REGISTRY

    def rejected() -> float:
        name, labels = "ai_agent_rate_limit_decisions_total", {"scope": "/a", "decision": "rejected"}
        return REGISTRY.get_sample_value(name, labels) or 0

    asked = Asked(a)
    assert counted(rejected, lambda: asked.allowed(*itertools.repeat("/a", 5))) == 3


def test_each_row_of_the_table_beside_slowapi_names_tests_that_there_are() -> None:
    text = Path("docs/rest.md").read_text().partition("### Beside slowapi")[2].partition("\n## ")[0]
    rows = [line.split(" | ")[-1] for line in text.splitlines() if line.startswith("| ")][1:]
    named = [name for row in rows for name in re.findall(r"`(\w+)`", row)]
    assert len(rows) == 25
    tests = "".join(file.read_text() for file in Path("tests").rglob("test_*.py"))
    assert [name for name in named if f"def test_{name}(" not in tests] == []
    files = [file for row in rows for file in re.findall(r"`(tests/[\w/]+\.py)`", row)]
    assert all(Path(file).is_file() for file in files)
