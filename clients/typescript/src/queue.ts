/** What is told while nobody listens waits here, in order; its end, or what went wrong, comes last. */
export class Queue<T> {
  #items: T[] = [];
  #end: { error?: Error } | undefined;
  #wake: (() => void) | undefined;

  get length(): number {
    return this.#items.length;
  }

  push(item: T): void {
    if (this.#end) return;
    this.#items.push(item);
    this.#wake?.();
  }

  /** Nothing more comes; whoever listens hears of the error. */
  end(error?: Error): void {
    this.#end ??= error ? { error } : {};
    this.#wake?.();
  }

  /** Forgets what waits. */
  clear(): void {
    this.#items = [];
  }

  /** The next item; nothing at the end. Throws the error of the end. */
  async next(): Promise<T | undefined> {
    while (this.#items.length === 0) {
      if (this.#end?.error) throw this.#end.error;
      if (this.#end) return undefined;
      await new Promise<void>((resolve) => (this.#wake = resolve));
    }
    return this.#items.shift();
  }
}
