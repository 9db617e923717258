// What a session tells: of a channel to its reader, of the connection to whoever keeps it.

import type { ApplicationEvent, EpochChanged, ErrorFrame, GapFrame, KnownEvent, Live, Subscribe } from "./types.ts";

/** Where a subscription starts, and what it shows. */
export type SubscribeOptions = Pick<Subscribe, "from" | "since" | "types" | "on_gap">;

/** What a subscription shows: an event, or what its reader should know of the numbering. */
export type ChannelNotice<E = KnownEvent | ApplicationEvent> =
  | (E & { epoch: string })
  | Live
  | GapFrame
  | EpochChanged;

/** What comes of a connection, beside what its subscriptions show. */
export type ConnectionNotice =
  | { t: "connected"; conn: string; user: string; silence_ms: number }
  | { t: "ended"; ch: string; reason: string }
  | { t: "reply"; id: number; data: unknown }
  | { t: "failed"; id: number; code: string; message: string }
  | ErrorFrame
  /** Another token is wanted. */
  | { t: "token" }
  /** The client is to close the socket itself. */
  | { t: "drop" }
  /** Connect again after exactly `after_ms`, or after a random part of `up_to_ms`. */
  | { t: "retry"; after_ms: number; code: number; reason: string }
  | { t: "retry"; up_to_ms: number; code: number; reason: string }
  /** For good. */
  | { t: "closed"; code: number; reason: string };

export type Notice = ChannelNotice | ConnectionNotice;
