/** Calls of the API with the session's token. Paths are relative to the console, so any path prefix works. */
import { signal } from "@preact/signals";
import { asking, token } from "../session.ts";

/** A problem document (RFC 9457), or what stands for one if there was no answer. */
export interface ProblemDocument {
  status: number;
  title: string;
  detail: string;
  /** Where in the request, as in `$.payload.width`. */
  path?: string;
  errors?: { index?: number; path?: string; error?: string; detail?: string }[];
}

export class ApiError extends Error {
  readonly status: number;
  readonly problem: ProblemDocument;
  readonly requestId: string;
  /** Seconds; null: not said. */
  readonly retryAfter: number | null;
  /** The body of the answer, as it came. */
  readonly body: unknown;

  constructor(problem: ProblemDocument, requestId = "", retryAfter: number | null = null, body: unknown = null) {
    super(problem.detail || problem.title);
    this.status = problem.status;
    this.problem = problem;
    this.requestId = requestId;
    this.retryAfter = retryAfter;
    this.body = body;
  }

  /** True: nobody answered, or the service cannot serve now. What was read before may still be shown. */
  get isOutage(): boolean {
    return this.status === 0 || this.status >= 500;
  }
}

export interface CallOptions {
  query?: URLSearchParams | Record<string, string | number | boolean | string[] | undefined | null>;
  /** Sent as JSON; a string is sent as it is, so that its numbers and key order stay. */
  body?: unknown;
  headers?: Record<string, string>;
  signal?: AbortSignal;
  /** One per dialog, from `newKey`: a repeated POST does nothing twice. */
  idempotencyKey?: string;
  /** For `ETag`s of resources: `If-Match`. */
  ifMatch?: string;
  /** Do not ask for a token when this call is refused. */
  quiet?: boolean;
  /** Parts of the session's calls that `i` shows; false for polling. */
  noted?: boolean;
}

export interface Answer<T> {
  body: T;
  status: number;
  headers: Headers;
  etag: string | null;
}

/** The address of the service, with its path prefix and a slash at the end. */
export const BASE = typeof document === "undefined" ? "http://localhost/" : new URL("../", document.baseURI).href;

/** Server's clock minus ours, milliseconds, from the header Date: good to a second. */
export const clockOffset = signal(0);
/** When the service last answered; 0: never. Milliseconds of our clock. */
export const lastAnswer = signal(0);
export const isUnreachable = signal(false);

/** The server's clock. */
export const serverNow = (): number => Date.now() + clockOffset.peek();

export interface Call {
  method: string;
  path: string;
  body?: string;
}
const CALLS_KEPT = 20;
/** The calls that filled the page, newest last, for `i`. */
export const calls = signal<Call[]>([]);
export function forgetCalls(): void {
  calls.value = [];
}

export function apiUrl(path: string): string {
  return BASE + path.replace(/^\//, "");
}

function withQuery(path: string, query: CallOptions["query"]): string {
  if (!query) return path;
  const search = query instanceof URLSearchParams ? query : new URLSearchParams();
  if (!(query instanceof URLSearchParams))
    for (const [name, value] of Object.entries(query))
      for (const each of Array.isArray(value) ? value : [value])
        if (each !== undefined && each !== null && each !== "") search.append(name, String(each));
  const text = search.toString();
  return text ? `${path}${path.includes("?") ? "&" : "?"}${text}` : path;
}

const known = new Map<string, { etag: string; body: unknown }>();
const KNOWN_LIMIT = 40;

function note(method: string, path: string, body: string | undefined): void {
  const rest = calls.peek().filter((each) => each.method !== method || each.path !== path);
  calls.value = [...rest, { method, path, body }].slice(-CALLS_KEPT);
}

async function readProblem(response: Response): Promise<ApiError> {
  let body: unknown = null;
  let problem: ProblemDocument = { status: response.status, title: response.statusText, detail: "" };
  try {
    body = await response.json();
    if (body && typeof body === "object") problem = { ...problem, ...(body as object), status: response.status };
  } catch {
    problem.detail = `The service answered ${response.status}, without a reason.`;
  }
  const after = Number(response.headers.get("Retry-After") ?? Number.NaN);
  return new ApiError(
    problem,
    response.headers.get("X-Request-Id") ?? "",
    Number.isFinite(after) && response.headers.has("Retry-After") ? after : null,
    body,
  );
}

/** Make a request and return the response, whose body is not read. Throws ApiError. */
export async function request(method: string, path: string, options: CallOptions = {}): Promise<Response> {
  const address = withQuery(path, options.query);
  const headers = new Headers(options.headers);
  if (token.peek()) headers.set("Authorization", `Bearer ${token.peek()}`);
  if (options.idempotencyKey) headers.set("Idempotency-Key", options.idempotencyKey);
  if (options.ifMatch) headers.set("If-Match", options.ifMatch);
  let body: string | undefined;
  if (options.body !== undefined) {
    body = typeof options.body === "string" ? options.body : JSON.stringify(options.body);
    headers.set("Content-Type", "application/json");
  }
  if (options.noted !== false) note(method, address, body);
  const used = token.peek();
  let response: Response;
  try {
    response = await fetch(apiUrl(address), { method, headers, body, signal: options.signal, cache: "no-store" });
  } catch (error) {
    if (error instanceof DOMException && error.name === "AbortError") throw error;
    isUnreachable.value = true;
    throw new ApiError({ status: 0, title: "No answer", detail: "The service does not answer." });
  }
  isUnreachable.value = false;
  lastAnswer.value = Date.now();
  const date = Date.parse(response.headers.get("Date") ?? "");
  // The header has whole seconds: small differences say nothing.
  if (Number.isFinite(date)) {
    const offset = date + 500 - Date.now();
    if (Math.abs(offset - clockOffset.peek()) > 1500) clockOffset.value = Math.abs(offset) < 1500 ? 0 : offset;
  }
  if (response.ok || response.status === 304) return response;
  const error = await readProblem(response);
  if (response.status === 401 && !options.quiet && used === token.peek()) asking.value = error.message;
  throw error;
}

/** Make a request and return the answer with its JSON body. A GET that changed nothing costs a 304. */
export async function call<T>(method: string, path: string, options: CallOptions = {}): Promise<Answer<T>> {
  const key = method === "GET" ? `${token.peek().slice(-16)} ${withQuery(path, options.query)}` : "";
  const had = key ? known.get(key) : undefined;
  const headers = had ? { ...options.headers, "If-None-Match": had.etag } : options.headers;
  const response = await request(method, path, { ...options, headers });
  const etag = response.headers.get("ETag");
  if (response.status === 304 && had) return { body: had.body as T, status: 200, headers: response.headers, etag };
  const text = await response.text();
  const body = text ? JSON.parse(text) : null;
  if (key && etag) {
    known.delete(key);
    known.set(key, { etag, body });
    if (known.size > KNOWN_LIMIT) known.delete(known.keys().next().value as string);
  }
  return { body: body as T, status: response.status, headers: response.headers, etag };
}

export const get = async <T>(path: string, options?: CallOptions): Promise<T> =>
  (await call<T>("GET", path, options)).body;
export const post = async <T>(path: string, body?: unknown, options?: CallOptions): Promise<T> =>
  (await call<T>("POST", path, { ...options, body })).body;
export const put = async <T>(path: string, body?: unknown, options?: CallOptions): Promise<T> =>
  (await call<T>("PUT", path, { ...options, body })).body;
export const patch = async <T>(path: string, body?: unknown, options?: CallOptions): Promise<T> =>
  (await call<T>("PATCH", path, { ...options, body })).body;
export const del = async <T>(path: string, options?: CallOptions): Promise<T> =>
  (await call<T>("DELETE", path, options)).body;

/** Return a key for `Idempotency-Key`. `randomUUID` does not exist on plain http. */
export function newKey(): string {
  return Array.from(crypto.getRandomValues(new Uint8Array(16)), (byte) => byte.toString(16).padStart(2, "0")).join("");
}
