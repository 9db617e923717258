// Against a real server, through a proxy that cuts connections: AI_AGENT_URL, AI_AGENT_API_KEY. Its model speaks slowly.
import assert from "node:assert/strict";
import { connect, createServer } from "node:net";
import { after, before, test } from "node:test";
import { AgentError, execute, followExecution, RealtimeClient } from "ai-agent-client";

const { AI_AGENT_URL: url, AI_AGENT_API_KEY: token } = process.env;
const ENDED = /^execution\.(completed|failed|cancelled)$/;
const CUT_AFTER = new Set([3, 4, 9]);

/** Passes on what it hears, until it is told to cut all that goes through it. */
class Proxy {
  #sockets = new Set();
  cuts = 0;
  /** Whether answers are kept from the client. */
  silent = false;

  #server = createServer((client) => {
    const server = connect(new URL(url).port, "127.0.0.1");
    for (const [one, other] of [[client, server], [server, client]]) {
      this.#sockets.add(one);
      one.on("data", (data) => (one === server && this.silent) || other.write(data));
      one.on("error", () => other.destroy());
      one.on("end", () => other.end());
      one.on("close", () => (this.#sockets.delete(one), other.destroy()));
    }
  });

  async start() {
    await new Promise((resolve) => this.#server.listen(0, "127.0.0.1", resolve));
    this.url = `http://127.0.0.1:${this.#server.address().port}`;
  }

  cut() {
    this.cuts += 1;
    for (const socket of this.#sockets) socket.destroy();
  }

  stop() {
    this.cut();
    this.#server.close();
  }
}

let proxy, agent;

before(async () => {
  const config = { provider: "openai", model: "m" };
  agent = (await rest("POST", "/agents", { name: `ts-${crypto.randomUUID()}`, model_config: config })).id;
});

test.beforeEach(async () => {
  proxy = new Proxy();
  await proxy.start();
});

test.afterEach(() => proxy.stop());

async function rest(method, path, body) {
  const headers = { Authorization: `Bearer ${token}`, "Content-Type": "application/json" };
  const answer = await fetch(`${url}/api/v1${path}`, { method, headers, body: body && JSON.stringify(body) });
  assert(answer.ok, `${method} ${path}: ${answer.status}`);
  return await answer.json();
}

/** All that the log holds of a run. */
async function kept(execution) {
  return (await rest("GET", `/executions/${execution}/events?limit=200`)).items;
}

/** Reads to the end of a run, and cuts all connections on the way. */
async function readThrough(events) {
  const heard = [];
  for await (const event of events) {
    heard.push(event);
    if (CUT_AFTER.has(heard.length)) proxy.cut();
    if (ENDED.test(event.type)) break;
  }
  assert.equal(proxy.cuts, CUT_AFTER.size);
  return heard;
}

const withoutEpoch = ({ epoch: _, ...event }) => event;

test("a run over a socket that is cut: nothing is lost, nothing comes twice", async () => {
  const client = new RealtimeClient({ url: proxy.url, token });
  const run = await client.call("agent.execute", { agent_id: agent, message: "Hello" });
  const heard = await readThrough(client.subscribe(`execution:${run.id}`, { from: "earliest" }).events());
  assert.deepEqual(heard.map(withoutEpoch), await kept(run.id));
  client.close();
});

test("a run over streams that are cut: nothing is lost, nothing comes twice", async () => {
  const heard = await readThrough(execute({ url: proxy.url, token }, agent, { message: "Hello" }));
  const id = heard[0].ch.slice("execution:".length);
  assert.deepEqual(heard, await kept(id));
});

test("a run is begun once, also where nobody heard that it was", async () => {
  const runs = async () => (await rest("GET", `/agents/${agent}/executions`)).items.length;
  const before = await runs();
  proxy.silent = true;
  setTimeout(() => ((proxy.silent = false), proxy.cut()), 300);
  const heard = await Array.fromAsync(execute({ url: proxy.url, token }, agent, { message: "Hello" }));
  assert.equal(proxy.cuts, 1);
  assert.deepEqual(heard, await kept(heard[0].ch.slice("execution:".length)));
  assert.equal(await runs(), before + 1);
});

test("a run is followed from where its reader was", async () => {
  const all = await Array.fromAsync(execute({ url, token }, agent, { message: "Hello" }));
  const rest = await Array.fromAsync(followExecution({ url, token }, all[0].ch.slice("execution:".length), "4"));
  assert.deepEqual(rest, all.slice(4));
});

test("a stream can be left before its end", async () => {
  const leaving = new AbortController();
  const events = execute({ url, token, signal: leaving.signal }, agent, { message: "Hello" });
  await events.next();
  leaving.abort();
  await assert.rejects(Array.fromAsync(events), { name: "AbortError" });
});

test("a session's channel is told on, over a cut, to who listens to several", async () => {
  const session = await rest("POST", "/sessions", {});
  const client = new RealtimeClient({ url: proxy.url, token });
  const told = client.subscribe(`session:${session.id}`, { from: "earliest" });
  const lively = [];
  for await (const notice of told) {
    lively.push(notice.t);
    if (notice.t !== "live") continue;
    if (lively.filter((t) => t === "live").length === 2) break;
    proxy.cut();
  }
  await assert.rejects(client.call("message.create", { session_id: session.id }), { code: "validation_error" });
  const message = await client.call("message.create", { session_id: session.id, content: "Hi" });
  assert.equal(message.content, "Hi");
  const run = await client.call("agent.execute", { agent_id: agent, message: "Hello", session_id: session.id });
  const events = client.subscribe(`execution:${run.id}`, { from: "earliest", types: ["execution.*"] });
  const heard = [];
  for await (const event of events.events()) if (heard.push(event.seq) && ENDED.test(event.type)) break;
  assert.deepEqual(events.position, { epoch: events.position.epoch, seq: heard.at(-1) });
  const page = await client.history(`execution:${run.id}`, { seq: 0 }, 2);
  assert.deepEqual(page.events.map(({ seq }) => seq), [1, 2]);
  client.close();
});

test("who is in a session and types is seen by others, also behind a cut", async () => {
  const session = await rest("POST", "/sessions", {});
  const [here, there] = [proxy.url, url].map((url) => new RealtimeClient({ url, token }));
  const told = there.subscribe(`presence:${session.id}`).events();
  assert.equal((await told.next()).value.type, "presence.joined");
  here.subscribe(`presence:${session.id}`);
  const [present] = await here.typing(session.id);
  assert.deepEqual([present.user_id, present.typing], ["admin", true]);
  assert.deepEqual((await told.next()).value.data, { user_id: "admin", typing: true });
  proxy.cut();
  assert.deepEqual((await told.next()).value.data, { user_id: "admin", typing: false });
  // Others may hear of the cut before who was cut: a command that was under way fails then.
  await here.typing(session.id).catch((error) => (assert.equal(error.code, "disconnected"), here.typing(session.id)));
  assert.deepEqual((await told.next()).value.data, { user_id: "admin", typing: true });
  assert.deepEqual(await there.presence(session.id), [present]);
  here.close();
  there.close();
  const looking = new RealtimeClient({ url, token });
  await assert.rejects(looking.typing(session.id), { code: "bad_channel" });
  looking.close();
});

test("what is refused is told", async () => {
  const client = new RealtimeClient({ url, token });
  const refused = client.subscribe(`session:${crypto.randomUUID()}`);
  await assert.rejects(Array.fromAsync(refused), { name: "AgentError", code: "authorization_error" });
  await assert.rejects(client.call("nothing"), { code: "unsupported" });
  client.close();
  await assert.rejects(client.call("nothing"), { code: "closed" });
  const stream = execute({ url, token }, crypto.randomUUID(), { message: "Hello" });
  await assert.rejects(Array.fromAsync(stream), { code: "not_found", status: 404 });
});

test("who is not known is told so, once a provider was asked again", async () => {
  let asked = 0;
  const nobody = new RealtimeClient({ url, token: () => (asked++, "sk-test-nobody") });
  await assert.rejects(Array.fromAsync(nobody.subscribe("system")), (error) => {
    assert(error instanceof AgentError);
    assert.deepEqual([error.code, error.status], ["unauthenticated", 4401]);
    return true;
  });
  assert.equal(asked, 2);
  await assert.rejects(Array.fromAsync(execute({ url, token: "sk-test-nobody" }, agent, { message: "x" })), { status: 401 });
});

test("what waits for a user comes once over cuts, urgent first, until it is acknowledged for all clients", async () => {
  const owner_id = `ts ${crypto.randomUUID()}`;
  const { key } = await rest("POST", "/admin/keys", { name: "ts", owner_id, scopes: ["agents:read"] });
  const notify = async (title, lane) =>
    (await rest("POST", "/notifications", { to: { user_id: owner_id }, title, lane })).eid;
  const stored = async (eid, status) => {
    while ((await rest("GET", `/events/${eid}/delivery`)).status !== status) await new Promise((go) => setTimeout(go, 20));
  };
  const eids = [await notify("first", 1), await notify("second", 1), await notify("at once", 0)];
  for (const eid of eids) await stored(eid, "stored");
  const client = new RealtimeClient({ url: proxy.url, token: key });
  const queue = await client.queue();
  const titles = [];
  for await (const event of queue.events()) {
    titles.push(event.data.title);
    if (titles.length === 2) proxy.cut(); // All three come again.
    client.acknowledge(event);
    if (titles.length === 3) await notify("last", 1);
    if (titles.length === 4) break;
  }
  assert.deepEqual(titles, ["at once", "first", "second", "last"]);
  for (const eid of eids) await stored(eid, "acknowledged");
  client.close();
});
