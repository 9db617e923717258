import { Queue } from "./queue.ts";
import type { ChannelNotice } from "./notices.ts";
import type { ApplicationEvent, KnownEvent, Since } from "./types.ts";

/** What is told in a channel of that name: the server's own events, or an application's. */
export type EventOf<C extends string> = string extends C
  ? KnownEvent | ApplicationEvent
  : C extends `topic:${string}` | "system"
    ? ApplicationEvent
    : KnownEvent;

/** Of a reader that is further behind, the rest is left at the server until it comes. */
const MOST_WAITING = 10_000;

/** What a subscription needs of its connection. */
export interface Connection {
  goOn(): void;
  leave(): void;
}

/**
 * Events of a channel, in order, each once, over any number of connections; and gaps, changes of the numbering, and
 * the moment from which all is new. Leaving the loop unsubscribes. Throws an AgentError where the subscription was
 * refused or has ended, such as `authorization_error`, `revoked`, `deleted`.
 */
export class Subscription<C extends string = string> implements AsyncIterable<ChannelNotice<EventOf<C>>> {
  readonly ch: C;
  /** Of the last event that was taken: `since` of a later subscription. Nothing before the first. */
  position: Since | undefined;
  readonly #connection: Connection;
  readonly #queue = new Queue<ChannelNotice>();
  #paused = false;

  constructor(ch: C, connection: Connection) {
    this.ch = ch;
    this.#connection = connection;
  }

  async *[Symbol.asyncIterator](): AsyncGenerator<ChannelNotice<EventOf<C>>, void, undefined> {
    try {
      for (let notice = await this.#next(); notice; notice = await this.#next()) {
        yield notice as ChannelNotice<EventOf<C>>;
      }
    } finally {
      this.close();
    }
  }

  /** The events alone. */
  async *events(): AsyncGenerator<EventOf<C> & { epoch: string }, void, undefined> {
    for await (const notice of this) if (notice.t === "event") yield notice as EventOf<C> & { epoch: string };
  }

  /** Unsubscribes; whoever listens comes to an end. */
  close(): void {
    this.#connection.leave();
    this.#queue.clear();
    this.#queue.end();
  }

  /** Of the connection: the next thing to show. Returns whether no more should come for now. */
  show(notice: ChannelNotice): boolean {
    this.#queue.push(notice);
    this.#paused ||= this.#queue.length > MOST_WAITING;
    return this.#paused;
  }

  /** Of the connection: nothing more comes. */
  end(error?: Error): void {
    this.#queue.end(error);
  }

  async #next(): Promise<ChannelNotice | undefined> {
    if (this.#paused && this.#queue.length === 0) {
      this.#paused = false;
      this.#connection.goOn();
    }
    const notice = await this.#queue.next();
    if (notice?.t === "event") this.position = { epoch: notice.epoch, seq: notice.seq };
    return notice;
  }
}
