// One subscription: how far it is, and what it has shown.

import type { ApplicationEvent, EpochChanged, GapFrame, KnownEvent, Live, Subscribe } from "./types.ts";
import type { ChannelNotice, SubscribeOptions } from "./notices.ts";
import { Seen } from "./seen.ts";

/** An event's place: its number, and which numbering that is of. */
export interface Position {
  epoch: string;
  seq: number;
}

export class Channel {
  /** Behind the last event that counts; nothing before the server has answered once. */
  position: Position | undefined;
  /** Whether the server has answered on this connection. */
  open = false;
  /** Whether its reader is too far behind to be told more. */
  paused = false;
  readonly name: string;
  protected readonly options: SubscribeOptions;
  protected readonly seen = new Seen();

  constructor(name: string, options: SubscribeOptions) {
    this.name = name;
    this.options = options;
  }

  /** Whether `connect` can take it up again: a filter or a wish has to be told anew. */
  get resumable(): boolean {
    const { types, on_gap = "latest" } = this.options;
    return this.position !== undefined && !this.paused && !types?.length && on_gap === "latest";
  }

  /** What asks for it: as at first, or behind the last event. */
  get request(): Pick<Subscribe, "ch"> & SubscribeOptions {
    const { from, since, ...others } = this.options;
    const start = this.position ? { since: this.position } : { ...(from && { from }), ...(since && { since }) };
    return { ch: this.name, ...structuredClone(start), ...others };
  }

  /** It is to be asked for, or to be answered, anew. */
  interrupt(): void {
    this.open = false;
  }

  /** The server has answered: events behind this position follow. Returns what is to be told of a new epoch. */
  start({ epoch, seq }: Position): EpochChanged | undefined {
    const before = this.position ?? this.options.since;
    this.position = { epoch, seq };
    this.open = true;
    if (!before?.epoch || before.epoch === epoch) return undefined;
    return { t: "epoch", ch: this.name, epoch, seq, ...(seq < before.seq && { rewound_to: seq }) };
  }

  /** What is to be shown of a frame; `lost` where events before it are missing. */
  hear(frame: KnownEvent | ApplicationEvent | Live | GapFrame | EpochChanged): ChannelNotice | "lost" | undefined {
    if (frame.t === "gap") return this.#raised(frame, frame.to);
    if (!this.open || !this.position) return undefined;
    if (frame.t === "live") return this.#raised(frame, frame.seq);
    return frame.t === "epoch" ? this.#renumbered(frame, this.position) : this.#event(frame, this.position);
  }

  #raised<F>(frame: F, seq: number): F {
    if (this.position) this.position.seq = Math.max(this.position.seq, seq);
    return frame;
  }

  #renumbered(frame: EpochChanged, position: Position): EpochChanged | undefined {
    // The answer to the subscription may have told it already.
    if (position.epoch === frame.epoch && (frame.rewound_to ?? position.seq) >= position.seq) return undefined;
    this.position = { epoch: frame.epoch, seq: frame.rewound_to ?? frame.seq };
    return { ...frame, seq: this.position.seq };
  }

  #event(event: KnownEvent | ApplicationEvent, position: Position): ChannelNotice | "lost" | undefined {
    if (event.seq <= position.seq) return undefined;
    // Events that are hidden from us lie between `prev` and this one; `live` may have told of some of them.
    if ((event.prev ?? event.seq - 1) > position.seq) return "lost";
    position.seq = event.seq;
    return this.seen.isNew(event.eid) ? { ...event, epoch: position.epoch } : undefined;
  }
}
