// Where the server is, who we are there, and what it refuses.

/** An API key or a JWT, or who gives one: it is asked for each connection, and when credentials end. */
export type Token = string | (() => string | Promise<string>);

export interface ServerOptions {
  /** The server's address, such as `https://agents.example.com`. */
  url: string;
  token: Token;
}

/** What the server, or a connection that is lost, answers; `code` is for programs. */
export class AgentError extends Error {
  override readonly name = "AgentError";
  readonly code: string;
  /** Of an HTTP answer, or the code that a socket was closed with; 0 where there was neither. */
  readonly status: number;

  constructor(code: string, message: string, status = 0) {
    super(message || code);
    this.code = code;
    this.status = status;
  }
}

export async function tokenOf(token: Token): Promise<string> {
  return typeof token === "string" ? token : await token();
}

/** An address below the server's own. */
export function address(url: string, path: string): URL {
  return new URL(url.replace(/\/+$/, "") + path);
}

/** A random part of the longest wait ("full jitter"), so that clients do not all come at once. */
export function jitter(longest: number): number {
  return Math.random() * longest;
}
