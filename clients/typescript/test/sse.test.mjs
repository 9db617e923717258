// Streams of a server that is scripted: what a real one does rarely.
import assert from "node:assert/strict";
import { createServer } from "node:http";
import { test } from "node:test";
import { execute, followExecution } from "ai-agent-client";

const END = "execution.completed";

const event = (seq, eid = seq, type = seq === 4 ? END : "execution.token") =>
  `id: e:${seq}\nevent: ${type}\ndata: ${JSON.stringify({ t: "event", ch: "execution:x", seq, eid: `${eid}`, type, ts: 1, data: {} })}\n\n`;

/** Each request is given to the next of the answers: a status that refuses, or the text of a stream. */
async function served(answers, use) {
  const requests = [];
  const server = createServer((request, response) => {
    requests.push(request);
    const answer = answers.shift();
    if (typeof answer === "string") return response.writeHead(200, { "Content-Type": "text/event-stream" }).end(answer);
    response.writeHead(answer, { "Content-Type": "application/json" }).end(JSON.stringify({ code: `c${answer}`, message: "No" }));
  });
  await new Promise((resolve) => server.listen(0, "127.0.0.1", resolve));
  const heard = [];
  try {
    await use(`http://127.0.0.1:${server.address().port}`, async (events) => {
      for await (const { seq, eid } of events) heard.push([seq, eid]);
    });
  } finally {
    server.closeAllConnections();
    server.close();
  }
  assert.deepEqual(answers, [], "There were fewer requests than answers");
  return { heard, requests };
}

test("a stream that ends before the run goes on behind its last event, and doubles are seen once", async () => {
  const answers = [event(1) + event(2), 503, event(2, 2) + event(3, 1) + event(4)];
  const { heard, requests } = await served(answers, (url, read) => read(execute({ url, token: "t" }, "a", { message: "Hi" })));
  assert.deepEqual(heard, [[1, "1"], [2, "2"], [4, "4"]]);
  assert.deepEqual(requests.map(({ method, url }) => `${method} ${url}`), [
    "POST /api/v1/agents/a/execute/stream",
    "GET /api/v1/executions/x/events",
    "GET /api/v1/executions/x/events",
  ]);
  assert.deepEqual(requests.map(({ headers }) => headers["last-event-id"]), [undefined, "e:2", "e:2"]);
});

test("a server that is away before it has answered is asked again with the same key", async () => {
  const answers = [503, event(4)];
  const { requests } = await served(answers, (url, read) => read(execute({ url, token: "t" }, "a", { message: "Hi" })));
  const keys = requests.map(({ headers }) => headers["idempotency-key"]);
  assert(keys[0]);
  assert.equal(keys[0], keys[1]);
});

test("a token that has ended is asked for once more", async () => {
  const tokens = ["old", "new"];
  const { requests } = await served([401, event(4)], (url, read) =>
    read(followExecution({ url, token: async () => tokens.shift() }, "x")),
  );
  assert.deepEqual(requests.map(({ headers }) => headers.authorization), ["Bearer old", "Bearer new"]);
});

for (const [what, answers, options] of [
  ["one token only is not tried twice", [401], {}],
  ["a provider is asked once more, not for ever", [401, 401], { token: () => "t" }],
  ["too many runs are refused at once", [429], {}],
  ["a server that stays away is given up", [503], { patience_ms: -1 }],
]) {
  test(what, () =>
    served(answers.slice(), (url, read) =>
      assert.rejects(read(execute({ url, token: "t", ...options }, "a", { message: "Hi" })), {
        name: "AgentError",
        status: answers[0],
        code: `c${answers[0]}`,
      }),
    ),
  );
}

test("too many requests are waited for once the run has begun", async () => {
  const { heard } = await served([event(1), 429, event(4)], (url, read) => read(followExecution({ url, token: "t" }, "x")));
  assert.deepEqual(heard.map(([seq]) => seq), [1, 4]);
});
