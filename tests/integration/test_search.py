"""Search through the server: the same hits in the same order on both databases."""

from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from tests.conftest import Server
from tests.integration.test_conversations import make

TEXTS = {
    "russian": "Привет, как дела?",
    "russian capitals": "ПРИВЕТ, друзья",
    "greek final": "γεια Σας",
    "greek capitals": "ΣΑΣ ΕΥΧΑΡΙΣΤΩ",
    "german": "Die Straße ist lang",
    "german capitals": "DIE STRASSE IST LANG",
    "composed": "un café crème",
    "decomposed": "un cafe\u0301 noir",
    "japanese": "東京都の天気は晴れです",
    "short chinese": "北京很大",
    "fruit": "apples and pears, no plums",
    "fruit too": "apples, plums and cherries",
    "one fruit": "pears",
    "percent": "100% sure, 50%%%% off",
    "under_score": "snake_case and snakeXcase",
    "quotes": "he said \"hello\" to 'her'",
    "backslash": r"C:\temp\new and \\server",
    "html": "<script>alert('apricot') & more</script>",
    "emoji": "rocket 🚀 launch",
    "long": "the quick brown fox jumps over the lazy dog and runs away",
    "lines": "first line\nsecond line",
}


@pytest.fixture(scope="module")
def searcher(server: Server) -> Iterator[httpx.Client]:
    """An owner whose only messages are the texts."""
    made = server.command("keys", "create", "--owner", "searcher", "--json", check=True)
    with server.client(httpx.Response(200, text=made.stdout).json()["key"]) as client:
        session = make(client, "/sessions", title="texts")
        for name, text in TEXTS.items():
            make(client, f"/sessions/{session['id']}/messages", content=text, metadata={"name": name})
        yield client


def search(client: httpx.Client, query: str, **params: Any) -> dict[str, Any]:
    response = client.get("/messages", params={"search": query, **params})
    assert response.status_code == 200, response.text
    return dict(response.json())


def names(client: httpx.Client, query: str, **params: Any) -> list[str]:
    return [item["metadata"]["name"] for item in search(client, query, **params)["items"]]


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("привет", ["russian capitals", "russian"]),
        ("ПРИВЕТ", ["russian capitals", "russian"]),
        ("риве", ["russian capitals", "russian"]),
        ("σας", ["greek capitals", "greek final"]),
        ("ΣΑΣ", ["greek capitals", "greek final"]),
        ("straße", ["german capitals", "german"]),
        ("Strasse", ["german capitals", "german"]),
        ("café", ["decomposed", "composed"]),
        ("CAFE\u0301", ["decomposed", "composed"]),
        ("東京", ["japanese"]),
        ("京", None),
        ("北京很", ["short chinese"]),
        ("京 大", ["short chinese"]),
        ("apples plums", ["fruit too", "fruit"]),
        ("plums apples -cherries", ["fruit"]),
        ('"and pears"', ["fruit"]),
        ('"pears and"', []),
        ('apples -"and pears"', ["fruit too"]),
        ("pears or cherries", ["one fruit", "fruit too", "fruit"]),
        ("apples pears or cherries", ["fruit too", "fruit"]),
        ("pears or apples or plums", ["fruit", "fruit too", "one fruit"]),
        ("pears or", ["one fruit", "fruit"]),
        ("le", ["html", "fruit too", "fruit"]),
        ("%%%%", ["percent"]),
        ("100%", ["percent"]),
        ("e_c", ["under_score"]),
        ("snake_case", ["under_score"]),
        ('said "hello', ["quotes"]),
        ("'her'", ["quotes"]),
        (r"\temp\new", ["backslash"]),
        (r"\\", ["backslash"]),
        ("<script>", ["html"]),
        ("🚀 launch", ["emoji"]),
        ('"line\nsecond"', ["lines"]),
        ('"quick brown fox jumps over the lazy dog and runs"', ["long"]),
        ('"quick brown fox jumps over the lazy dog and hides"', []),
        ('lazy -"quick brown fox jumps over the lazy dog and hides"', ["long"]),
        ("x" * 200, []),
        ("nothing here", []),
        ("'; DROP TABLE messages; --", []),
        ('"apples" AND NOT (pears)', []),
        ("NEAR(apples pears)", []),
        ("search_text : apples", []),
        ("apples*", []),
        ("^apples", []),
    ],
)
def test_what_a_search_finds(searcher: httpx.Client, query: str, expected: list[str] | None) -> None:
    if expected is None:
        refused = searcher.get("/messages", params={"search": query})
        assert refused.status_code == 422
        assert refused.json()["validation_errors"][0]["field"] == "search"
    else:
        assert names(searcher, query) == expected


@pytest.mark.parametrize("query", ["", " ", "a", "-apples", "apples or -pears", "or", '""', "x" * 201, "a b " * 9])
def test_a_search_that_cannot_be_answered_is_refused(searcher: httpx.Client, query: str) -> None:
    for path in ("/messages", f"/sessions/{searcher.get('/sessions').json()['items'][0]['id']}/messages"):
        refused = searcher.get(path, params={"search": query})
        assert (refused.status_code, refused.json()["code"]) == (422, "validation_error")
        assert refused.json()["validation_errors"][0]["field"] == "search"


def test_a_search_needs_a_query_without_nul(searcher: httpx.Client) -> None:
    assert searcher.get("/messages").json()["validation_errors"][0]["field"] == "search"
    assert searcher.get("/messages", params={"search": "a\0b"}).status_code == 422


def test_pages_of_a_search_hold_every_hit_once_in_the_order_of_the_whole(searcher: httpx.Client) -> None:
    query = "an or le or pl or pears or apples"
    whole = names(searcher, query, limit=200)
    assert len(whole) > 6
    seen: list[str] = []
    params = {"limit": "2", "include_total": "true"}
    while True:
        page = search(searcher, query, **params)
        seen += [item["metadata"]["name"] for item in page["items"]]
        assert page["total"] == len(whole)
        if not page["has_more"]:
            break
        params["cursor"] = page["next_cursor"]
    assert seen == whole
    assert names(searcher, query, offset=3, limit=3) == whole[3:6]
    other = searcher.get("/messages", params={"search": "pears or apples", "cursor": params["cursor"]})
    assert other.json()["validation_errors"][0]["field"] == "cursor"


def test_filters_of_a_search_compose(searcher: httpx.Client) -> None:
    session = make(searcher, "/sessions")
    path = f"/sessions/{session['id']}/messages"
    said = make(searcher, path, content="cucumber salad", metadata={"name": "a"})
    answered = make(searcher, path, content="cucumber soup", role="assistant", metadata={"name": "b"})
    assert names(searcher, "cucumber") == ["b", "a"]
    assert names(searcher, "cucumber", role="user") == ["a"]
    assert names(searcher, "cucumber", session_id=session["id"]) == ["b", "a"]
    assert names(searcher, "cucumber", agent_id=session["id"]) == []
    assert names(searcher, "cucumber", created_after=said["created_at"]) == ["b"]
    assert names(searcher, "cucumber", created_before=answered["created_at"], session_id=session["id"]) == ["a"]
    assert search(searcher, "cucumber", role="user", include_total=True)["total"] == 1
    gone = searcher.get("/messages", params={"search": "cucumber", "session_id": said["id"]})
    assert (gone.status_code, gone.json()["code"]) == (404, "not_found")


def test_a_snippet_marks_every_match_and_escapes_the_rest(searcher: httpx.Client) -> None:
    [item] = search(searcher, "apricot or scr")["items"]
    marked = "&lt;<mark>scr</mark>ipt&gt;alert(&#x27;<mark>apricot</mark>&#x27;) &amp; more&lt;/<mark>scr</mark>ipt&gt;"
    assert item["snippet"] == marked
    assert "snippet" not in searcher.get(f"/messages/{item['id']}").json()


def test_a_search_within_a_session_keeps_the_order_of_the_list_and_has_snippets(searcher: httpx.Client) -> None:
    session = make(searcher, "/sessions")
    path = f"/sessions/{session['id']}/messages"
    for text in ("a zebra", "a lion", "two zebras and a lion"):
        make(searcher, path, content=text, metadata={"name": text})
    page = searcher.get(path, params={"search": "zebra or lion", "include_total": True, "limit": 2}).json()
    assert [item["content"] for item in page["items"]] == ["a zebra", "a lion"]
    assert page["items"][0]["snippet"] == "a <mark>zebra</mark>"
    assert page["total"] == 3
    rest = searcher.get(path, params={"search": "zebra or lion", "limit": 2, "cursor": page["next_cursor"]}).json()
    assert [item["content"] for item in rest["items"]] == ["two zebras and a lion"]
    assert [i["content"] for i in searcher.get(path, params={"search": "zebra -lion"}).json()["items"]] == ["a zebra"]
    assert searcher.get(path, params={"search": "lion", "role": "tool"}).json()["items"] == []
    assert "snippet" not in searcher.get(path).json()["items"][0]


def test_a_changed_message_is_found_by_what_it_says_now(searcher: httpx.Client) -> None:
    session = make(searcher, "/sessions")
    message = make(searcher, f"/sessions/{session['id']}/messages", content="an aardvark", metadata={"name": "x"})
    path = f"/messages/{message['id']}"
    assert searcher.patch(path, json={"content": "a Wombat"}).status_code == 200
    assert (names(searcher, "aardvark"), names(searcher, "wombat")) == ([], ["x"])
    assert searcher.patch(path, json={"metadata": {"name": "y"}}).status_code == 200
    assert names(searcher, "wombat") == ["y"]
    assert searcher.put(path, json={"content": "a Quokka"}).status_code == 200
    assert (names(searcher, "wombat"), len(search(searcher, "quokka")["items"])) == ([], 1)
    assert searcher.delete(path).status_code == 204
    assert search(searcher, "quokka")["items"] == []


def test_what_was_deleted_with_its_session_is_not_found(searcher: httpx.Client) -> None:
    session = make(searcher, "/sessions")
    for _ in range(3):
        make(searcher, f"/sessions/{session['id']}/messages", content="an ocelot")
    assert search(searcher, "ocelot", include_total=True)["total"] == 3
    assert searcher.delete(f"/sessions/{session['id']}").status_code == 204
    assert search(searcher, "ocelot", include_total=True)["total"] == 0
    kept = make(searcher, "/sessions")
    make(searcher, f"/sessions/{kept['id']}/messages", content="another ocelot")
    assert search(searcher, "ocelot", include_total=True)["total"] == 1


def test_another_owners_messages_are_not_found(searcher: httpx.Client, api: httpx.Client) -> None:
    assert search(api, "привет", include_total=True)["total"] == 0
    session = searcher.get("/sessions", params={"search": "texts"}).json()["items"][0]["id"]
    assert api.get("/messages", params={"search": "привет", "session_id": session}).status_code == 404
