// Source: WHATWG HTML, "Server-sent events", parsing an event stream.

export interface ServerSentEvent {
  id: string;
  event: string;
  data: string;
}

/** The events of a `text/event-stream`. `alive` is called for each of them, and for each comment. */
export async function* eventStream(
  body: ReadableStream<Uint8Array>,
  alive: () => void,
): AsyncGenerator<ServerSentEvent, void, undefined> {
  let id = "";
  let event = "";
  let data: string[] = [];
  for await (const line of lines(body)) {
    if (line === "") {
      if (data.length) {
        alive();
        yield { id, event: event || "message", data: data.join("\n") };
      }
      event = "";
      data = [];
      continue;
    }
    const [field, value] = split(line);
    if (field === "") alive();
    else if (field === "id") id = value;
    else if (field === "event") event = value;
    else if (field === "data") data.push(value);
  }
}

/** Lines end with LF, CR or both; what has no end is no line. */
async function* lines(body: ReadableStream<Uint8Array>): AsyncGenerator<string, void, undefined> {
  const decoder = new TextDecoder();
  const reader = body.getReader();
  let rest = "";
  try {
    for (let chunk = await reader.read(); !chunk.done; chunk = await reader.read()) {
      // A CR at the end may be the first half of an end: what follows it decides.
      const whole = (rest + decoder.decode(chunk.value, { stream: true })).split(/\r\n|\n|\r(?!$)/);
      rest = whole.pop() ?? "";
      yield* whole;
    }
  } finally {
    reader.releaseLock();
  }
}

function split(line: string): [field: string, value: string] {
  const colon = line.indexOf(":");
  if (colon < 0) return [line, ""];
  return [line.slice(0, colon), line.slice(line[colon + 1] === " " ? colon + 2 : colon + 1)];
}
