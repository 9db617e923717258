// The subscription to the user's own queue: every event once, acknowledged until the server knows.

import type { ApplicationEvent, EpochChanged, GapFrame, KnownEvent, Live, Subscribe } from "./types.ts";
import type { ChannelNotice, SubscribeOptions } from "./notices.ts";
import { Channel, type Position } from "./channel.ts";
import { Seen } from "./seen.ts";

/** Acknowledgements that one frame holds. */
const AT_ONCE = 256;

/** The server keeps what was not acknowledged, so there is no position: each subscription begins with all that. */
export class UserQueue extends Channel {
  readonly #acknowledged = new Seen();
  #toSay = new Set<string>();

  acknowledge(eid: string): void {
    this.#acknowledged.isNew(eid);
    this.#toSay.add(eid);
  }

  /** What is to be said of what the application has done with. */
  acknowledgements(): Array<{ t: "ack"; ch: string; eids: string[] }> {
    const eids = [...this.#toSay];
    this.#toSay.clear();
    const frames = [];
    while (eids.length) frames.push({ t: "ack" as const, ch: this.name, eids: eids.splice(0, AT_ONCE) });
    return frames;
  }

  override get resumable(): boolean {
    return false;
  }

  override get request(): Pick<Subscribe, "ch"> & SubscribeOptions {
    const { types } = this.options;
    return { ch: this.name, ...(types && { types }) };
  }

  override start(_: Position): undefined {
    this.open = true;
  }

  override hear(frame: KnownEvent | ApplicationEvent | Live | GapFrame | EpochChanged): ChannelNotice | undefined {
    if (frame.t === "gap") return frame;
    if (!this.open || frame.t === "epoch") return undefined;
    if (frame.t === "live") return frame;
    if (this.#acknowledged.has(frame.eid)) this.#toSay.add(frame.eid); // It was not heard the first time.
    else if (this.seen.isNew(frame.eid)) return { ...frame, epoch: "" };
    return undefined;
  }
}

// What a channel's name can hold.
const NAME = /^[A-Za-z0-9_.:@|~+/=-]{1,255}$/;

/** The channel of a user's queue. Of a name that no channel can have it is the SHA-256, in hex behind a `~`. */
export async function queueOf(user: string): Promise<`user:${string}`> {
  if (NAME.test(user)) return `user:${user}`;
  const digest = await crypto.subtle.digest("SHA-256", new TextEncoder().encode(user));
  return `user:~${[...new Uint8Array(digest)].map((byte) => byte.toString(16).padStart(2, "0")).join("")}`;
}
