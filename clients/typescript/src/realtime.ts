// A WebSocket that comes back: it opens, heeds the clock and the token, and leaves all the rest to the session.

import { address, AgentError, jitter, tokenOf, type ServerOptions } from "./server.ts";
import type { ChannelNotice, ConnectionNotice, Notice, SubscribeOptions } from "./notices.ts";
import { Session } from "./session.ts";
import { Subscription, type EventOf } from "./subscription.ts";
import type { ApplicationEvent, KnownEvent, ServerFrame, Since } from "./types.ts";
import { queueOf } from "./user_queue.ts";

export interface RealtimeOptions extends ServerOptions {
  /** What kind of client this is, for the server's log. */
  name?: string;
  /** Which one it is: the server closes an earlier connection of the same instance. */
  instance?: string;
  /** Told what becomes of the connection: for a light that is green or red. */
  onConnection?: (notice: ConnectionNotice) => void;
}

/** A page of a channel. */
export interface HistoryPage<E = KnownEvent | ApplicationEvent> {
  epoch: string;
  top: number;
  floor: number;
  events: E[];
}

/** Somebody who is in a session; `since` is milliseconds since the epoch. */
export interface Present {
  user_id: string;
  since: number;
  typing: boolean;
}

const PROTOCOL = "aiagent.v1.json";
/** A socket that has not opened, and been welcomed, after this long is given up. */
const WELCOME_MS = 15_000;
/** Acknowledgements of this time are told together. */
const GATHER_MS = 50;
const NORMAL = 1000;
const ABNORMAL = 1006;

interface Waiter {
  resolve: (data: unknown) => void;
  reject: (error: AgentError) => void;
}

/** A connection to the server that is opened again whenever it is lost, and then goes on where each channel was. */
export class RealtimeClient {
  readonly #options: RealtimeOptions;
  readonly #target: URL;
  readonly #session: Session;
  readonly #subscriptions = new Map<string, Subscription<string>>();
  readonly #waiting = new Map<number, Waiter>();
  #socket: WebSocket | undefined;
  #timer: ReturnType<typeof setTimeout> | undefined;
  #silence_ms = WELCOME_MS;
  #closed: AgentError | undefined;
  #welcomes: Array<() => void> = [];
  #user = "";
  #settling: ReturnType<typeof setTimeout> | undefined;

  constructor(options: RealtimeOptions) {
    this.#options = options;
    this.#target = address(options.url, "/ws");
    this.#target.protocol = this.#target.protocol.replace("http", "ws");
    this.#session = new Session({
      name: options.name ?? "ai-agent-client",
      instance: options.instance ?? crypto.randomUUID(),
      renewable: typeof options.token === "function",
    });
    void this.#connect();
  }

  /** Listens to a channel. Throws where it is subscribed to already, and after the end. */
  subscribe<const C extends string>(ch: C, options: SubscribeOptions = {}): Subscription<C> {
    if (this.#closed) throw this.#closed;
    if (this.#subscriptions.has(ch)) throw new AgentError("already_subscribed", `There is a subscription to ${ch}`);
    const subscription = new Subscription<C>(ch, {
      goOn: () => this.#do(() => this.#session.goOn(ch)),
      leave: () => this.#leave(ch),
    });
    this.#subscriptions.set(ch, subscription as unknown as Subscription<string>);
    this.#do(() => this.#session.subscribe(ch, options));
    return subscription;
  }

  /**
   * What waits for the user, and what comes: approvals, ends of their runs, notifications; urgent first. Each event is
   * kept, and told every client of the user, until one of them has acknowledged it. It is told here once.
   */
  async queue(options: Pick<SubscribeOptions, "types"> = {}): Promise<Subscription<`user:${string}`>> {
    await this.#welcome();
    return this.subscribe(await queueOf(this.#user), options);
  }

  /** Takes an event out of the user's queue, soon and for good: also when the connection is lost meanwhile. */
  acknowledge(event: Pick<KnownEvent, "ch" | "eid">): void {
    this.#session.acknowledge(event.ch, event.eid);
    this.#settling ??= setTimeout(() => this.#settle(), GATHER_MS);
  }

  /** Calls a method, as its REST twin does. It fails as `disconnected` where it is not known whether it happened. */
  async call<T = unknown>(method: string, params: Record<string, unknown> = {}): Promise<T> {
    return (await this.#command(() => this.#session.call(method, params))) as T;
  }

  /** Events of a channel behind a position, without a subscription: 50 unless told, at most 200. */
  async history<const C extends string>(ch: C, since: Since, limit?: number): Promise<HistoryPage<EventOf<C>>> {
    return (await this.#command(() => this.#session.history(ch, since, limit))) as HistoryPage<EventOf<C>>;
  }

  /** Who is in a session, in the order in which they came: all whose clients are subscribed to its `presence:…`. */
  async presence(session_id: string): Promise<Present[]> {
    return await this.#present(session_id);
  }

  /**
   * Lets all in a session know whether the user is typing there, for ten seconds; who is there. It fails as
   * `bad_channel` unless this client is subscribed to the session's `presence:…`.
   */
  async typing(session_id: string, typing = true): Promise<Present[]> {
    return await this.#present(session_id, typing);
  }

  async #present(session_id: string, typing?: boolean): Promise<Present[]> {
    const answer = await this.#command(() => this.#session.presence(`presence:${session_id}`, typing));
    return (answer as { users: Present[] }).users;
  }

  /** Ends the connection, and all subscriptions with it; what was acknowledged is told before. */
  close(): void {
    this.#settle();
    this.#end(new AgentError("closed", "The client was closed"), undefined);
    this.#drop(NORMAL);
  }

  async #connect(): Promise<void> {
    const token = await tokenOf(this.#options.token).catch((error: unknown) => error as Error);
    if (this.#closed) return;
    if (typeof token !== "string") return this.#lost(ABNORMAL, `There is no token: ${token.message}`);
    const socket = new WebSocket(this.#target, PROTOCOL);
    this.#socket = socket;
    this.#silence_ms = WELCOME_MS;
    this.#heard();
    socket.onopen = () => this.#do(() => this.#session.opened(token));
    socket.onmessage = ({ data }) => this.#receive(String(data));
    socket.onclose = ({ code, reason }) => this.#lost(code, reason);
  }

  #receive(text: string): void {
    this.#heard();
    let message: ServerFrame | ServerFrame[];
    try {
      message = JSON.parse(text);
    } catch {
      return this.#drop();
    }
    this.#do(() => this.#session.received(message));
  }

  /** A server that says nothing, not even that it is there, is away, whatever the socket thinks. */
  #heard(): void {
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => this.#drop(), this.#silence_ms);
  }

  /** Leaves the socket without waiting for the other side, which may not be there. */
  #drop(code?: number): void {
    const socket = this.#socket;
    if (socket) socket.onopen = socket.onmessage = socket.onclose = null;
    socket?.close(code);
    this.#lost(ABNORMAL);
  }

  #lost(code: number, reason?: string): void {
    clearTimeout(this.#timer);
    this.#socket = undefined;
    if (!this.#closed) this.#do(() => this.#session.closed(code, reason));
  }

  /** Whatever is done to the session: what comes of it is sent and told. */
  #do<T>(what: () => T): T {
    const done = what();
    for (let drained = this.#session.drain(); drained; drained = this.#session.drain()) {
      for (const frame of drained.frames) this.#socket?.send(JSON.stringify(frame));
      for (const notice of drained.notices) this.#tell(notice);
    }
    return done;
  }

  #tell(notice: Notice): void {
    switch (notice.t) {
      case "event":
      case "gap":
      case "live":
      case "epoch":
        return this.#show(notice);
      case "reply":
        return this.#answered(notice.id)?.resolve(notice.data);
      case "failed":
        return this.#answered(notice.id)?.reject(new AgentError(notice.code, notice.message));
      case "token":
        void this.#renew();
        return;
    }
    this.#connection(notice);
    this.#options.onConnection?.(notice);
  }

  #connection(notice: ConnectionNotice): void {
    switch (notice.t) {
      case "connected":
        this.#user = notice.user;
        return this.#welcomed(notice.silence_ms);
      case "ended":
        return this.#forget(notice.ch, new AgentError(notice.reason, `${notice.ch} is no longer told: ${notice.reason}`));
      case "drop":
        return this.#drop(NORMAL);
      case "retry":
        return this.#retry("after_ms" in notice ? notice.after_ms : jitter(notice.up_to_ms));
      case "closed":
        return this.#refused(notice.code, notice.reason);
    }
  }

  #retry(after_ms: number): void {
    this.#timer = setTimeout(() => void this.#connect(), after_ms);
  }

  #refused(code: number, reason: string): void {
    const error = new AgentError(reason || "closed", `The server has closed the connection: ${code} ${reason}`, code);
    this.#end(error, error);
  }

  #show(notice: ChannelNotice): void {
    if (this.#subscriptions.get(notice.ch)?.show(notice)) this.#session.pause(notice.ch);
  }

  #welcomed(silence_ms: number): void {
    this.#silence_ms = silence_ms;
    this.#heard();
    for (const go of this.#welcomes.splice(0)) go();
  }

  async #renew(): Promise<void> {
    // Who cannot give a token now is asked again when the connection ends.
    const token = await tokenOf(this.#options.token).catch(() => undefined);
    if (token !== undefined) this.#do(() => this.#session.renew(token));
  }

  #settle(): void {
    clearTimeout(this.#settling);
    this.#settling = undefined;
    this.#do(() => this.#session.settle());
  }

  async #welcome(): Promise<void> {
    while (!this.#session.ready && !this.#closed) await new Promise<void>((resolve) => this.#welcomes.push(resolve));
    if (this.#closed) throw this.#closed;
  }

  async #command(send: () => number): Promise<unknown> {
    await this.#welcome();
    return await new Promise((resolve, reject) => this.#do(() => this.#waiting.set(send(), { resolve, reject })));
  }

  #answered(id: number): Waiter | undefined {
    const waiter = this.#waiting.get(id);
    this.#waiting.delete(id);
    return waiter;
  }

  #leave(ch: string): void {
    if (this.#subscriptions.delete(ch)) this.#do(() => this.#session.unsubscribe(ch));
  }

  #forget(ch: string, error: AgentError | undefined): void {
    const subscription = this.#subscriptions.get(ch);
    this.#subscriptions.delete(ch);
    subscription?.end(error);
  }

  /** For good. `told` is what ends the subscriptions: nothing where that was wanted. */
  #end(error: AgentError, told: AgentError | undefined): void {
    if (this.#closed) return;
    this.#closed = error;
    clearTimeout(this.#timer);
    for (const waiter of this.#waiting.values()) waiter.reject(error);
    for (const ch of [...this.#subscriptions.keys()]) this.#forget(ch, told);
    for (const go of this.#welcomes.splice(0)) go();
  }
}
