/** Events of a channel whose ids are remembered. */
const REMEMBERED = 4096;

/** The latest event ids of one channel: what a server sends again after it lost its place is not told twice. */
export class Seen {
  /** In the order in which they came, as a Set keeps them. */
  readonly #eids = new Set<string>();

  has(eid: string): boolean {
    return this.#eids.has(eid);
  }

  /** Whether it is met for the first time; from now on it is not. */
  isNew(eid: string): boolean {
    if (this.#eids.has(eid)) return false;
    this.#eids.add(eid);
    if (this.#eids.size > REMEMBERED) for (const oldest of this.#eids) return this.#eids.delete(oldest);
    return true;
  }
}
