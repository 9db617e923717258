import assert from "node:assert/strict";
import { test } from "node:test";
import { eventStream } from "../dist/event_stream.js";

const TEXT = 'retry: 2000\n\n: there\n\nid: e:1\nevent: note\ndata: {"a":\ndata: "é"}\n\nid: e:2\ndata:x\n\ndata: cut off';
const EVENTS = [
  { id: "e:1", event: "note", data: '{"a":\n"é"}' },
  { id: "e:2", event: "message", data: "x" },
];

async function read(text, size) {
  const bytes = new TextEncoder().encode(text);
  let alive = 0;
  const body = new ReadableStream({
    start(controller) {
      for (let at = 0; at < bytes.length; at += size) controller.enqueue(bytes.slice(at, at + size));
      controller.close();
    },
  });
  const events = await Array.fromAsync(eventStream(body, () => (alive += 1)));
  return { events, alive };
}

for (const end of ["\n", "\r\n", "\r"]) {
  for (const size of [1, 2, 7, 1000]) {
    test(`lines that end with ${JSON.stringify(end)}, ${size} bytes at once`, async () => {
      assert.deepEqual(await read(TEXT.replaceAll("\n", end), size), { events: EVENTS, alive: 3 });
    });
  }
}
