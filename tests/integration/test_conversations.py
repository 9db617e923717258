"""Sessions, messages and agents through the server, on both databases."""

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx


def make(api: httpx.Client, path: str, **body: object) -> dict[str, Any]:
    response = api.post(path, json=body)
    assert response.status_code == 201, response.text
    return dict(response.json())


def test_a_session_is_created_read_changed_and_deleted(api: httpx.Client) -> None:
    session = make(api, "/sessions", title="  Trip  ", metadata={"a": 1, "b": {"c": 2}}, user_id="u1")
    assert session["title"] == "Trip"
    assert session["status"] == "idle"
    path = f"/sessions/{session['id']}"
    assert api.get(path).json() == session
    patched = api.patch(path, json={"metadata": {"b": {"c": None, "d": 3}}}).json()
    assert patched["metadata"] == {"a": 1, "b": {"d": 3}}
    assert patched["title"] == "Trip"
    replaced = api.put(path, json={"title": "New"}).json()
    assert (replaced["title"], replaced["user_id"], replaced["metadata"]) == ("New", None, {})
    assert api.delete(path).status_code == 204
    assert api.get(path).status_code == 404


def test_pages_by_cursor_see_every_session_once(api: httpx.Client) -> None:
    made = [make(api, "/sessions", user_id="paged")["id"] for _ in range(7)]
    seen, cursor = [], None
    while True:
        params = {"limit": "3", "user_id": "paged", "include_total": "true"} | ({"cursor": cursor} if cursor else {})
        page = api.get("/sessions", params=params).json()
        assert page["total"] == 7
        seen += [session["id"] for session in page["items"]]
        cursor = page["next_cursor"]
        if not page["has_more"]:
            break
    assert seen == made[::-1]
    assert cursor is None


def test_a_page_names_the_address_of_the_next_one(api: httpx.Client) -> None:
    made = [make(api, "/sessions", user_id="linked & ünusual")["id"] for _ in range(3)]
    response = api.get("/sessions", params={"limit": 2, "user_id": "linked & ünusual", "sort_by": "created_at"})
    seen = [session["id"] for session in response.json()["items"]]
    assert set(response.links) == {"next"}
    assert response.json()["next_cursor"] in response.headers["link"]
    following = api.get(response.links["next"]["url"].removeprefix("/api/v1"))
    seen += [session["id"] for session in following.json()["items"]]
    assert seen == made[::-1]
    assert "link" not in following.headers


def test_a_cursor_of_another_list_is_refused(api: httpx.Client) -> None:
    for _ in range(2):
        make(api, "/sessions", user_id="foreign")
    cursor = api.get("/sessions", params={"limit": 1, "user_id": "foreign"}).json()["next_cursor"]
    response = api.get("/sessions", params={"limit": 1, "cursor": cursor})
    assert response.status_code == 422
    assert response.json()["validation_errors"][0]["field"] == "cursor"


def test_messages_follow_each_other_and_counts_are_exact_under_concurrent_posts(api: httpx.Client) -> None:
    session = make(api, "/sessions")
    path = f"/sessions/{session['id']}/messages"
    with ThreadPoolExecutor(8) as pool:
        statuses = list(pool.map(lambda n: api.post(path, json={"content": str(n)}).status_code, range(20)))
    assert statuses == [201] * 20
    messages = api.get(path, params={"limit": 200}).json()["items"]
    assert [message["position"] for message in messages] == list(range(1, 21))
    assert [message["parent_message_id"] for message in messages] == [None, *(m["id"] for m in messages[:-1])]
    assert api.get(f"/sessions/{session['id']}").json()["message_count"] == 20


def test_replies_of_a_deleted_message_follow_its_parent(api: httpx.Client) -> None:
    session = make(api, "/sessions")
    path = f"/sessions/{session['id']}/messages"
    first, second, third = (make(api, path, content=text) for text in "abc")
    assert api.delete(f"/messages/{second['id']}").status_code == 204
    assert api.get(f"/messages/{third['id']}").json()["parent_message_id"] == first["id"]
    assert api.get(f"/sessions/{session['id']}").json()["message_count"] == 2


def test_content_is_kept_byte_for_byte(api: httpx.Client) -> None:
    session = make(api, "/sessions")
    content = "  \t Grüße 👋\r\n  "
    message = make(api, f"/sessions/{session['id']}/messages", content=content)
    assert api.get(f"/messages/{message['id']}").json()["content"] == content


def test_a_parent_of_another_session_is_refused(api: httpx.Client) -> None:
    one, other = make(api, "/sessions"), make(api, "/sessions")
    message = make(api, f"/sessions/{one['id']}/messages", content="x")
    body = {"content": "y", "parent_message_id": message["id"]}
    response = api.post(f"/sessions/{other['id']}/messages", json=body)
    assert response.status_code == 422
    assert response.json()["validation_errors"][0]["field"] == "parent_message_id"
    assert api.get(f"/sessions/{other['id']}").json()["message_count"] == 0


def test_an_agents_name_is_unique_and_each_change_is_a_version(api: httpx.Client) -> None:
    agent = make(api, "/agents", name="unique", model_config={"provider": "openai", "model": "m", "top_p": 0.5})
    assert agent["version"] == 1
    assert api.post("/agents", json={"name": " unique "}).status_code == 409
    path = f"/agents/{agent['id']}"
    patched = api.patch(path, json={"model_config": {"temperature": 1, "top_p": None}}).json()
    assert patched["model_config"] == {"provider": "openai", "model": "m", "temperature": 1.0}
    assert patched["version"] == 2
    refused = api.patch(path, json={"model_config": {"temperature": 9}}).json()
    assert refused["validation_errors"][0]["field"] == "model_config.temperature"
    assert api.delete(path).status_code == 204
