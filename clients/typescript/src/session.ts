// The protocol as a state machine: frames in, frames and notices out. No socket, no timer, no clock, so that the
// transcript of the protocol can be replayed on it.

import type {
  ApplicationEvent,
  EpochChanged,
  ErrorFrame,
  GapFrame,
  KnownEvent,
  Live,
  Resumed,
  ServerFrame,
  Since,
  Subscribed,
  Welcome,
} from "./types.ts";
import { Channel, type Position } from "./channel.ts";
import { UserQueue } from "./user_queue.ts";
import type { Notice, SubscribeOptions } from "./notices.ts";

/** A frame of the client's own; what has its default is left out. */
export type Outgoing = { t: string; id?: number } & Record<string, unknown>;

export interface SessionOptions {
  name: string;
  instance: string;
  /** Whether somebody can be asked for another token. */
  renewable: boolean;
}

const FIRST_WAIT_MS = 500;
const LONGEST_WAIT_MS = 20_000;
const SOCKET_FAULTS = new Set([1002, 1003, 1007, 1008, 1009, 1010]);
const FOR_NOW = new Set(["rate_limit_error", "service_unavailable", "timeout_error", "internal_error"]);
const UNAUTHENTICATED = 4401;

/** The longest wait after so many failures in a row: full jitter takes a random part of it. */
export function longestWait(failures: number): number {
  return Math.min(FIRST_WAIT_MS * 2 ** (failures - 1), LONGEST_WAIT_MS);
}

/** Whether a socket that was closed with this code is not to be opened again. */
export function final(code: number): boolean {
  return (code >= 4400 && code <= 4409) || (code >= 4430 && code <= 4499) || SOCKET_FAULTS.has(code);
}

export class Session {
  readonly #options: SessionOptions;
  readonly #channels = new Map<string, Channel>();
  /** Commands under way, by their ids. */
  readonly #commands = new Map<number, "auth" | "command" | Channel>();
  /** Channels whose unsubscribing is under way: what comes of them was meant for an earlier subscription. */
  readonly #leaving = new Map<number, string>();
  #frames: Outgoing[] = [];
  #notices: Notice[] = [];
  #lastId = 0;
  #connectId = 0;
  #failures = 0;
  #state: "away" | "connecting" | "ready" | "dropped" = "away";
  #askedAgain = false;
  #bye: { code: number; reason: string; after_ms?: number } | undefined;

  constructor(options: SessionOptions) {
    this.#options = options;
  }

  /** What there is to send and to tell since the last time; nothing when there is nothing. */
  drain(): { frames: Outgoing[]; notices: Notice[] } | undefined {
    if (!this.#frames.length && !this.#notices.length) return undefined;
    const drained = { frames: this.#frames, notices: this.#notices };
    this.#frames = [];
    this.#notices = [];
    return drained;
  }

  get ready(): boolean {
    return this.#state === "ready";
  }

  /** A socket was opened. */
  opened(token: string): void {
    this.#state = "connecting";
    this.#bye = undefined;
    const { name, instance } = this.#options;
    const resume = [...this.#channels.values()].filter((channel) => channel.resumable);
    this.#connectId = this.#send({
      t: "connect",
      token,
      client: { name, instance },
      caps: ["batch"],
      ...(resume.length && { resume: resume.map((channel) => ({ ch: channel.name, ...channel.position })) }),
    });
  }

  /** The socket was closed, or could not be opened. */
  closed(code: number, reason = ""): void {
    this.#state = "away";
    for (const [id, what] of this.#commands) {
      if (what === "command") this.#fail(id, "disconnected", "The connection was lost");
    }
    this.#commands.clear();
    this.#leaving.clear();
    for (const channel of this.#channels.values()) channel.interrupt();
    this.#tell(this.#next(this.#bye?.code ?? code, this.#bye?.reason ?? reason));
  }

  /** What a frame, or a batch of them, means. Frames of later versions mean nothing. */
  received(message: ServerFrame | ServerFrame[]): void {
    for (const frame of Array.isArray(message) ? message : [message]) {
      if (this.#state !== "dropped") this.#receive(frame);
    }
  }

  subscribe(name: string, options: SubscribeOptions = {}): void {
    const channel = name.startsWith("user:") ? new UserQueue(name, options) : new Channel(name, options);
    this.#channels.set(name, channel);
    if (this.ready) this.#ask(channel);
  }

  unsubscribe(name: string): void {
    const channel = this.#channels.get(name);
    if (channel instanceof UserQueue) this.#acknowledge(channel);
    this.#channels.delete(name);
    if (channel && !channel.paused && this.ready) this.#leave(channel);
  }

  /** Lets the server keep what follows, until `goOn`. */
  pause(name: string): void {
    const channel = this.#channels.get(name);
    if (!channel || channel.paused) return;
    channel.paused = true;
    channel.interrupt();
    if (this.ready) this.#leave(channel);
  }

  /** Subscribes again, behind the last event. */
  goOn(name: string): void {
    const channel = this.#channels.get(name);
    if (!channel?.paused) return;
    channel.paused = false;
    if (this.ready) this.#ask(channel);
  }

  /** The application has done with an event of the user's queue: the server need not keep it. */
  acknowledge(ch: string, eid: string): void {
    const channel = this.#channels.get(ch);
    if (channel instanceof UserQueue) channel.acknowledge(eid);
  }

  /** Tells the server what was acknowledged since. Unheard, it is said again when the event comes again. */
  settle(): void {
    for (const channel of this.#channels.values()) if (channel instanceof UserQueue) this.#acknowledge(channel);
  }

  call(method: string, params?: Record<string, unknown>): number {
    return this.#command({ t: "call", method, ...(params && { params }) });
  }

  history(ch: string, since: Since, limit?: number): number {
    return this.#command({ t: "history", ch, since, ...(limit !== undefined && { limit }) });
  }

  presence(ch: string, typing?: boolean): number {
    return this.#command({ t: "presence", ch, ...(typing !== undefined && { typing }) });
  }

  /** Renews the credentials in place. */
  renew(token: string): void {
    if (this.ready) this.#commands.set(this.#send({ t: "auth", token }), "auth");
  }

  #command(frame: Outgoing): number {
    if (!this.ready) {
      this.#fail(++this.#lastId, "disconnected", "There is no connection");
      return this.#lastId;
    }
    const id = this.#send(frame);
    this.#commands.set(id, "command");
    return id;
  }

  #acknowledge(queue: UserQueue): void {
    if (this.ready) for (const frame of queue.acknowledgements()) this.#command(frame);
  }

  #send(frame: Outgoing): number {
    const id = ++this.#lastId;
    this.#frames.push({ ...frame, id });
    return id;
  }

  #tell(notice: Notice): void {
    this.#notices.push(notice);
  }

  #fail(id: number, code: string, message: string): void {
    this.#tell({ t: "failed", id, code, message });
  }

  #ask(channel: Channel): void {
    channel.interrupt();
    this.#commands.set(this.#send({ t: "subscribe", ...channel.request }), channel);
  }

  #leave(channel: Channel): void {
    this.#leaving.set(this.#send({ t: "unsubscribe", ch: channel.name }), channel.name);
  }

  #next(code: number, reason: string): Notice {
    if (code === UNAUTHENTICATED && this.#options.renewable && !this.#askedAgain) {
      this.#askedAgain = true;
      return { t: "retry", after_ms: 0, code, reason };
    }
    if (final(code)) return { t: "closed", code, reason };
    if (this.#bye?.after_ms !== undefined) return { t: "retry", after_ms: this.#bye.after_ms, code, reason };
    return { t: "retry", up_to_ms: longestWait(++this.#failures), code, reason };
  }

  #receive(frame: ServerFrame): void {
    switch (frame.t) {
      case "ping":
        return void this.#frames.push({ t: "pong", ...(frame.id !== undefined && { id: frame.id }) });
      case "welcome":
        return this.#welcomed(frame);
      case "subscribed":
        return this.#subscribed(frame);
      case "event":
      case "live":
      case "gap":
      case "epoch":
        return this.#heard(frame);
      case "reply":
        if (this.#answered(frame.id) === "command") this.#tell({ t: "reply", id: frame.id!, data: frame.data });
        return;
      case "error":
        return this.#refused(frame);
      case "unsubscribed":
        if (!this.#leaving.delete(frame.id ?? 0)) this.#end(frame.ch, frame.reason);
        return;
      case "auth_expiring":
        if (this.#options.renewable) this.#tell({ t: "token" });
        return;
      case "bye":
        this.#bye = frame;
    }
  }

  #welcomed(frame: Welcome): void {
    this.#state = "ready";
    this.#askedAgain = false;
    const { ping_ms, pong_ms } = frame.heartbeat;
    this.#tell({ t: "connected", conn: frame.conn, user: frame.user, silence_ms: ping_ms * 1.1 + pong_ms });
    for (const entry of frame.resumed) this.#resumed(entry);
    if (!this.ready) return;
    this.#failures = 0;
    for (const channel of this.#channels.values()) if (!channel.open && !channel.paused) this.#ask(channel);
  }

  #resumed(entry: Resumed): void {
    const channel = this.#channels.get(entry.ch);
    if (!channel) return;
    if (entry.code !== undefined) this.#stop(channel, entry.code);
    else this.#start(channel, entry);
  }

  #subscribed(frame: Subscribed): void {
    const channel = this.#answered(frame.id);
    if (channel instanceof Channel && this.#channels.get(frame.ch) === channel) this.#start(channel, frame);
  }

  #start(channel: Channel, from: Position): void {
    const changed = channel.start(from);
    if (changed) this.#tell(changed);
  }

  #heard(frame: KnownEvent | ApplicationEvent | Live | GapFrame | EpochChanged): void {
    const channel = this.#channels.get(frame.ch);
    if (!channel || [...this.#leaving.values()].includes(frame.ch)) return;
    const notice = channel.hear(frame);
    if (notice === "lost") {
      this.#leave(channel);
      this.#ask(channel);
    } else if (notice) this.#tell(notice);
  }

  #refused(frame: ErrorFrame): void {
    const what = this.#answered(frame.id);
    if (what instanceof Channel) {
      if (this.#channels.get(what.name) === what) this.#stop(what, frame.code);
      return;
    }
    if (what === "command") return this.#fail(frame.id!, frame.code, frame.message);
    // A refused connection is closed, and the code says so; one that one cannot leave was left before.
    if (frame.id !== undefined && (frame.id === this.#connectId || this.#leaving.delete(frame.id))) return;
    this.#tell(frame);
  }

  #answered(id: number | undefined): "auth" | "command" | Channel | undefined {
    if (id === undefined) return undefined;
    const what = this.#commands.get(id);
    this.#commands.delete(id);
    return what;
  }

  /** A subscription that went on before is not given up for what will pass. */
  #stop(channel: Channel, code: string): void {
    if (!channel.position || !FOR_NOW.has(code)) return this.#end(channel.name, code);
    this.#state = "dropped";
    this.#tell({ t: "drop" });
  }

  #end(ch: string, reason: string): void {
    if (this.#channels.delete(ch)) this.#tell({ t: "ended", ch, reason });
  }
}
