// A client generated from the OpenAPI document, as a user would write with it. Type-checked, then run by Node.
import assert from "node:assert/strict";
import createClient from "openapi-fetch";
import type { components, paths } from "./api.d.ts";

type EventFrame = components["schemas"]["EventFrame"];

const [, , baseUrl, key] = process.argv;
assert(baseUrl && key);
// Operations that can stream answer text besides; this client wants JSON only.
const api = createClient<paths, "application/json">({ baseUrl, headers: { Authorization: `Bearer ${key}` } });

// The discriminator tells the compiler which data an event has.
const spoken = (event: EventFrame): string => (event.type === "execution.token" ? event.data.text : "");

const created = await api.POST("/api/v1/sessions", { body: { title: "From TypeScript", metadata: { a: 1, b: 2 } } });
assert.equal(created.response.status, 201);
const session = created.data;
assert(session);
assert.equal(session.status, "idle");

for (const content of ["one", "two", "three"]) {
  const posted: { data?: components["schemas"]["Message"] } = await api.POST("/api/v1/sessions/{session_id}/messages", {
    params: { path: { session_id: session.id } },
    body: { content },
  });
  assert.equal(posted.data?.content, content);
}

const heard: string[] = [];
let cursor: string | null = null;
do {
  const page: { data?: components["schemas"]["MessagePage"] } = await api.GET(
    "/api/v1/sessions/{session_id}/messages",
    { params: { path: { session_id: session.id }, query: { limit: 2, ...(cursor === null ? {} : { cursor }) } } },
  );
  assert(page.data);
  heard.push(...page.data.items.map((message) => message.content));
  cursor = page.data.next_cursor;
} while (cursor !== null);
assert.deepEqual(heard, ["one", "two", "three"]);

const patched = await api.PATCH("/api/v1/sessions/{session_id}", {
  params: { path: { session_id: session.id } },
  body: { title: null, metadata: { a: null } },
});
assert.equal(patched.data?.title, null);
assert.deepEqual(patched.data?.metadata, { b: 2 });

const tag = patched.response.headers.get("etag");
assert(tag);
const unchanged = await api.GET("/api/v1/sessions/{session_id}", {
  params: { path: { session_id: session.id }, header: { "If-None-Match": tag } },
});
assert.equal(unchanged.response.status, 304);
const stale = await api.PATCH("/api/v1/sessions/{session_id}", {
  params: { path: { session_id: session.id }, header: { "If-Match": '"999"' } },
  body: { title: "late" },
});
assert.equal(stale.response.status, 412);
assert.equal(stale.error?.code, "precondition_failed");

const name = `typescript-${crypto.randomUUID()}`;
const agent = await api.POST("/api/v1/agents", {
  body: { name, model_config: { provider: "openai", model: "scripted" } },
});
assert(agent.data);
assert.equal(agent.data.model_config.provider, "openai");

const executed = await api.POST("/api/v1/agents/{agent_id}/execute", {
  params: { path: { agent_id: agent.data.id } },
  body: { message: "hello", session_id: session.id },
});
assert(executed.data && "content" in executed.data);
assert.equal(executed.data.content, "You said: hello");

const events = await api.GET("/api/v1/executions/{execution_id}/events", {
  params: { path: { execution_id: executed.data.execution_id } },
});
assert(events.data);
assert.equal(events.data.items.map(spoken).join(""), "You said: hello");

const missing = await api.GET("/api/v1/messages/{message_id}", { params: { path: { message_id: session.id } } });
assert.equal(missing.error?.code, "not_found");
const invalid = await api.POST("/api/v1/agents", { body: { name: " " } });
assert.equal(invalid.response.status, 422);
assert.equal(invalid.error?.validation_errors?.[0]?.field, "name");
