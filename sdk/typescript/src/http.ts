/** Requests to the service: token, timeout, retries that are safe, errors. */
import { ApiError, ConnectionError, errorFor, TaskstreamError } from "./errors.ts";
import { parse, randomHex, stringify } from "./json.ts";
import { backoffMs, LinkedAbort, sleep, throwIfAborted } from "./timing.ts";
import { type GetToken, TokenSource } from "./token.ts";

export type Fetch = (input: string, init?: RequestInit) => Promise<Response>;

export interface ConnectionOptions {
  /** The service's address, as in `https://tasks.example.org`; a path prefix is kept. In a page: its own origin by default. */
  url?: string;
  /** A bearer token or an API key. */
  token?: string;
  /** Returns a bearer token. It is called when one is needed, before the last one expires, and once if that is refused. */
  getToken?: GetToken;
  /** Headers of every request. */
  headers?: Record<string, string>;
  /** Repetitions of a request that may be repeated; default 4. */
  retries?: number;
  /** A service that asks for a longer pause than this is not asked again; default 60,000 ms. */
  longestRetryAfterMs?: number;
  /** For an answer, without the time that the request asked to wait; default 30,000 ms. */
  timeoutMs?: number;
  /** True: integers beyond 2^53 are BigInts in answers; false (default): numbers, rounded. BigInts can always be sent. */
  bigint?: boolean;
  /** In place of the global `fetch`. */
  fetch?: Fetch;
}

type Value = string | number | boolean | Date | null | undefined;
export type Query = Record<string, Value | readonly Value[]>;

export interface RequestOptions {
  query?: Query;
  /** Sent as JSON. */
  json?: unknown;
  /** Sent as it is. */
  body?: BodyInit;
  headers?: Record<string, string>;
  signal?: AbortSignal;
  idempotencyKey?: string;
  /** True: repeating it changes nothing more. Default: of GET, PUT, DELETE, and of requests with an idempotency key. */
  isRepeatable?: boolean;
  timeoutMs?: number;
  /** Repetitions, in place of the client's. */
  retries?: number;
}

const REPEATABLE = new Set(["GET", "HEAD", "PUT", "DELETE"]);
const PASSING = new Set([408, 425, 429, 500, 502, 503, 504]);

export class Http {
  readonly url: string;
  readonly tokens: TokenSource;
  readonly bigint: boolean;
  private readonly fetch: Fetch;
  private readonly headers: Record<string, string>;
  private readonly retries: number;
  private readonly longestRetryAfterMs: number;
  private readonly timeoutMs: number;

  constructor(options: ConnectionOptions) {
    const origin = typeof location === "undefined" ? undefined : location.origin;
    const url = options.url ?? origin;
    if (!url) throw new TypeError("give the service's address: new Taskstream({ url })");
    if (options.token !== undefined && options.getToken) throw new TypeError("give `token` or `getToken`, not both");
    this.url = url.replace(/\/+$/, "");
    this.tokens = new TokenSource(options.token ?? null, options.getToken ?? null);
    this.bigint = options.bigint ?? false;
    // Bound to nothing: browsers refuse a fetch with another `this`.
    this.fetch = options.fetch ?? ((input, init) => globalThis.fetch(input, init));
    this.headers = options.headers ?? {};
    this.retries = options.retries ?? 4;
    this.longestRetryAfterMs = options.longestRetryAfterMs ?? 60_000;
    this.timeoutMs = options.timeoutMs ?? 30_000;
  }

  /** Make a request and return its JSON, null if there is none. */
  async json<T>(method: string, path: string, options: RequestOptions = {}): Promise<T> {
    return this.repeated(method, options, async (signal) => {
      const response = await this.once(method, path, options, signal);
      const text = await textOf(response, options.signal);
      try {
        return (text ? parse(text, this.bigint) : null) as T;
      } catch {
        throw new TaskstreamError(`${method} ${path}: the answer is no JSON; is ${this.url} the service?`);
      }
    });
  }

  /** Make a request and return its response, whose body is not read. */
  async response(method: string, path: string, options: RequestOptions = {}): Promise<Response> {
    return this.repeated(method, options, (signal) => this.once(method, path, options, signal));
  }

  /** Make a request once, without a timeout of its own. A refused token is replaced once. */
  async once(method: string, path: string, options: RequestOptions, signal?: AbortSignal): Promise<Response> {
    let token = await this.tokens.token();
    let response = await this.send(method, path, options, token, signal);
    if (response.status === 401 && this.tokens.canRenew) {
      response.body?.cancel().catch(() => {});
      token = await this.tokens.replaced(token);
      response = await this.send(method, path, options, token, signal);
    }
    if (response.ok) return response;
    throw errorFor(response, await textOf(response, signal));
  }

  private async send(
    method: string,
    path: string,
    options: RequestOptions,
    token: string | null,
    signal: AbortSignal | undefined,
  ): Promise<Response> {
    const headers: Record<string, string> = { Accept: "application/json", ...this.headers, ...options.headers };
    if (token !== null) headers.Authorization = `Bearer ${token}`;
    if (options.idempotencyKey) headers["Idempotency-Key"] = options.idempotencyKey;
    let body = options.body;
    if (options.json !== undefined) {
      body = stringify(options.json);
      headers["Content-Type"] = "application/json";
    }
    const init: RequestInit & { duplex?: string } = { method, headers, body, signal, cache: "no-store" };
    // A body that is a stream: browsers and Node ask for this.
    if (typeof ReadableStream !== "undefined" && body instanceof ReadableStream) init.duplex = "half";
    try {
      return await this.fetch(this.url + withQuery(path, options.query), init);
    } catch (error) {
      throwIfAborted(signal);
      throw new ConnectionError(`${method} ${path}: ${this.url} does not answer`, { cause: error });
    }
  }

  private async repeated<T>(
    method: string,
    options: RequestOptions,
    attempt: (signal: AbortSignal) => Promise<T>,
  ): Promise<T> {
    const isRepeatable = options.isRepeatable ?? (REPEATABLE.has(method) || options.idempotencyKey !== undefined);
    const most = options.retries ?? this.retries;
    const timeoutMs = options.timeoutMs ?? this.timeoutMs;
    for (let repetition = 0; ; repetition++) {
      throwIfAborted(options.signal);
      const link = new LinkedAbort(options.signal);
      const timeout = new ConnectionError(`no answer within ${timeoutMs / 1000} s`);
      const timer = setTimeout(() => link.abort(timeout), timeoutMs);
      let error: unknown;
      try {
        return await attempt(link.signal);
      } catch (caught) {
        error = caught;
      } finally {
        clearTimeout(timer);
        link.release();
      }
      throwIfAborted(options.signal);
      const pauseMs = repetition < most ? this.pauseMs(error, isRepeatable, repetition) : null;
      if (pauseMs === null) throw error;
      await sleep(pauseMs, options.signal);
    }
  }

  /** Return the wait before the request is made again; null: it is not. */
  private pauseMs(error: unknown, isRepeatable: boolean, repetition: number): number | null {
    if (error instanceof ConnectionError) return isRepeatable ? backoffMs(repetition) : null;
    // A 429 was not carried out, whatever it was.
    if (!(error instanceof ApiError) || !PASSING.has(error.status) || !(isRepeatable || error.status === 429))
      return null;
    const { retryAfterMs } = error;
    if (retryAfterMs === null) return backoffMs(repetition);
    return retryAfterMs <= this.longestRetryAfterMs ? Math.max(retryAfterMs, backoffMs(0, 500)) : null;
  }
}

async function textOf(response: Response, signal: AbortSignal | undefined): Promise<string> {
  try {
    return await response.text();
  } catch (error) {
    throwIfAborted(signal);
    throw new ConnectionError("the answer was cut", { cause: error });
  }
}

/** Return a key that makes one call safe to repeat. */
export const newKey = randomHex;

/** Return a path with parameters; null and undefined ones are left out. */
export function withQuery(path: string, query: Query | undefined): string {
  const search = new URLSearchParams();
  for (const [name, value] of Object.entries(query ?? {}))
    for (const each of (Array.isArray(value) ? value : [value]) as Value[])
      if (each !== undefined && each !== null)
        search.append(name, each instanceof Date ? each.toISOString() : String(each));
  const text = search.toString();
  return text ? `${path}?${text}` : path;
}

/** Return a value as a segment of a path. */
export const segment = encodeURIComponent;
