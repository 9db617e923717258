// The transcript that every client replays: what it means is told beside it.
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { test } from "node:test";
import { Session } from "../dist/session.js";

const file = process.env.TRANSCRIPT ?? new URL("../../../tests/contract/realtime_transcript.jsonl", import.meta.url);
const [header, ...lines] = readFileSync(file, "utf8").trim().split("\n").map((line) => JSON.parse(line));

class Replay {
  constructor({ provider = true }) {
    this.session = new Session({ name: "transcript", instance: "i-1", renewable: provider });
    this.frames = [];
    this.notices = [];
  }

  play(line) {
    if ("expect" in line) return this.#expect(line.expect);
    if (line.dir === "send") return assert.deepEqual(this.#taken().frames.shift(), line.frame);
    this.finish();
    if ("do" in line) return this.#do(line);
    const { session } = this;
    if (line.dir === "connect") session.opened(line.frame.token);
    else if (line.dir === "receive") session.received(line.frame);
    else session.closed(line.frame.code);
  }

  /** What is not in the script does not happen. */
  finish() {
    this.#taken();
    assert.deepEqual([...this.frames, ...this.notices], []);
  }

  #do({ do: action, ch, method, params, since, limit, token, typing, ...options }) {
    const { session } = this;
    if (action === "subscribe") session.subscribe(ch, { ...(since && { since }), ...options });
    else if (action === "unsubscribe") session.unsubscribe(ch);
    else if (action === "call") session.call(method, params);
    else if (action === "history") session.history(ch, since, limit);
    else if (action === "presence") session.presence(ch, typing);
    else if (action === "token") session.renew(token);
    else assert.fail(action);
  }

  #expect(expected) {
    const [[kind, members]] = Object.entries(expected);
    const notice = this.#taken().notices.shift();
    assert.equal(notice?.t, kind);
    for (const [name, value] of Object.entries(members)) assert.deepEqual(notice[name], value, name);
  }

  #taken() {
    const { frames, notices } = this.session.drain() ?? { frames: [], notices: [] };
    this.frames.push(...JSON.parse(JSON.stringify(frames)));
    this.notices.push(...notices);
    return this;
  }
}

const cases = [];
for (const line of lines) "case" in line ? cases.push([line]) : cases.at(-1).push(line);

test("the transcript is one that this client knows", () => {
  assert.deepEqual([header.transcript, header.version], ["aiagent.v1", 1]);
  assert(cases.length > 40);
});

for (const [start, ...script] of cases) {
  test(start.case, () => {
    const replay = new Replay(start);
    script.forEach((line, index) => {
      try {
        replay.play(line);
      } catch (error) {
        error.message = `line ${index + 1}, ${JSON.stringify(line)}: ${error.message}`;
        throw error;
      }
    });
    replay.finish();
  });
}
