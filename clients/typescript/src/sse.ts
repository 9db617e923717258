// Runs over HTTP alone: a stream of server-sent events that is taken up where it broke.

import { address, AgentError, jitter, tokenOf, type ServerOptions } from "./server.ts";
import { longestWait } from "./session.ts";
import { eventStream } from "./event_stream.ts";
import type { KnownEvent } from "./types.ts";

/** What an agent is asked; see `POST /api/v1/agents/{agent_id}/execute/stream`. */
export interface ExecuteRequest {
  message: string;
  session_id?: string;
  metadata?: Record<string, unknown>;
  on_busy?: "reject" | "enqueue" | "interrupt" | "rollback";
  timeout_seconds?: number;
  callback_url?: string;
}

export interface StreamOptions extends ServerOptions {
  /** Ends the stream; the run goes on. */
  signal?: AbortSignal;
  /** How long the server may be away before its error is thrown; a minute unless told. */
  patience_ms?: number;
}

/** The server says something at least every 15 s. */
const SILENCE_MS = 40_000;
const PATIENCE_MS = 60_000;
const AWAY = new Set([0, 502, 503, 504]);
const ENDS = new Set(["execution.completed", "execution.failed", "execution.cancelled"]);

interface Attempt {
  target: URL;
  init: RequestInit;
}

/**
 * Lets an agent answer, and tells every event of the run to its end. It is begun once, whatever happens to the
 * connection. Throws an AgentError for what the server refuses.
 */
export function execute(
  options: StreamOptions,
  agentId: string,
  request: ExecuteRequest,
): AsyncGenerator<KnownEvent, void, undefined> {
  const headers = { "Content-Type": "application/json", "Idempotency-Key": crypto.randomUUID() };
  const target = address(options.url, `/api/v1/agents/${agentId}/execute/stream`);
  return follow(options, { target, init: { method: "POST", headers, body: JSON.stringify(request) } });
}

/** The events of a run to its end: all of them, or those behind `after`, an `<epoch>:<seq>` or a number. */
export function followExecution(
  options: StreamOptions,
  executionId: string,
  after?: string,
): AsyncGenerator<KnownEvent, void, undefined> {
  return follow(options, taken(options.url, executionId, after ?? ""));
}

function taken(url: string, executionId: string, position: string): Attempt {
  const headers = { ...(position && { "Last-Event-ID": position }) };
  return { target: address(url, `/api/v1/executions/${executionId}/events`), init: { headers } };
}

async function* follow(options: StreamOptions, attempt: Attempt): AsyncGenerator<KnownEvent, void, undefined> {
  const seen = new Set<string>();
  const outage = new Outage(options);
  for (;;) {
    try {
      for await (const { id, event } of events(options, attempt, () => outage.over())) {
        attempt = taken(options.url, event.ch.slice(event.ch.indexOf(":") + 1), id);
        if (seen.has(event.eid)) continue;
        seen.add(event.eid);
        yield event;
        if (ENDS.has(event.type)) return;
      }
      throw new AgentError("disconnected", "The stream has ended before the run");
    } catch (error) {
      await outage.bear(error);
    }
  }
}

/** One connection's events, with their positions. `alive` is called for each sign of life. */
async function* events(
  options: StreamOptions,
  { target, init }: Attempt,
  alive: () => void,
): AsyncGenerator<{ id: string; event: KnownEvent }> {
  const silence = new AbortController();
  const signal = AbortSignal.any([silence.signal, ...(options.signal ? [options.signal] : [])]);
  let timer: ReturnType<typeof setTimeout> | undefined;
  const wait = () => {
    clearTimeout(timer);
    timer = setTimeout(() => silence.abort(new AgentError("disconnected", "The server says nothing")), SILENCE_MS);
  };
  wait();
  try {
    const token = await tokenOf(options.token);
    const headers = { ...init.headers, Accept: "text/event-stream", Authorization: `Bearer ${token}` };
    const response = await fetch(target, { ...init, headers, signal });
    if (!response.ok || !response.body) throw await refusal(response);
    const told = eventStream(response.body, () => (wait(), alive()));
    for await (const { id, data } of told) yield { id, event: JSON.parse(data) };
  } finally {
    clearTimeout(timer);
    silence.abort();
  }
}

async function refusal(response: Response): Promise<AgentError> {
  const text = await response.text();
  try {
    const { code, message } = JSON.parse(text) as { code: string; message: string };
    return new AgentError(code, message, response.status);
  } catch {
    return new AgentError("unexpected_answer", text.slice(0, 200), response.status);
  }
}

/** How long the server is away: from the first failure to the next sign of life. */
class Outage {
  readonly #options: StreamOptions;
  #failures = 0;
  #since = 0;
  #refused = false;
  #begun = false;

  constructor(options: StreamOptions) {
    this.#options = options;
  }

  over(): void {
    this.#failures = 0;
    this.#refused = false;
    this.#begun = true;
  }

  /** Waits a while. Throws what does not pass, and what has not passed for too long. */
  async bear(error: unknown): Promise<void> {
    const { signal, patience_ms = PATIENCE_MS } = this.#options;
    if (signal?.aborted || !this.#passes(error)) throw error;
    if (++this.#failures === 1) this.#since = Date.now();
    if (Date.now() - this.#since > patience_ms) throw error;
    await sleep(jitter(longestWait(this.#failures)), signal);
  }

  #passes(error: unknown): boolean {
    if (!(error instanceof AgentError)) return error instanceof TypeError; // As fetch tells of the network.
    if (error.status === 401 && typeof this.#options.token === "function") {
      const first = !this.#refused;
      this.#refused = true;
      return first;
    }
    // Who may not begin so often is told; a run that has begun is waited for.
    return AWAY.has(error.status) || (error.status === 429 && this.#begun) || error.code === "idempotency_in_progress";
  }
}

function sleep(ms: number, signal?: AbortSignal): Promise<void> {
  return new Promise((resolve, reject) => {
    const timer = setTimeout(resolve, ms);
    signal?.addEventListener("abort", () => (clearTimeout(timer), reject(signal.reason)), { once: true });
  });
}
