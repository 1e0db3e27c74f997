/** Streams of events that go on over cuts and restarts: after the last id, without gaps and without repetitions. */
import { ApiError, ConnectionError, TaskstreamError } from "./errors.ts";
import { type Http, type Query, segment } from "./http.ts";
import { parse } from "./json.ts";
import { type EventBlock, EventParser } from "./sse.ts";
import { backoffMs, LinkedAbort, sleep, throwIfAborted } from "./timing.ts";
import { hasEnded, type RecordedEvent, type StreamItem, type TaskDetails } from "./types.ts";

/** Streams do not get through here: a proxy collects them, or `fetch` cannot read piece by piece. */
export class StreamsBlockedError extends TaskstreamError {
  override name = "StreamsBlockedError";
}

export interface StreamTiming {
  /** The service speaks at once. A stream that is silent for so long at its start is held back on the way; 10,000 ms. */
  firstWordMs?: number;
  /** A stream without even a heartbeat for so long is dead; 35,000 ms (they come every 15 s). */
  silenceMs?: number;
  /** Between two requests where streams are blocked; 2,000 ms. */
  pollMs?: number;
  /** Without any answer for so long, following gives up; 300,000 ms. */
  giveUpMs?: number;
}

export interface FollowOptions extends StreamTiming {
  query?: Query;
  /** The id to resume after. */
  after?: string;
  signal?: AbortSignal;
  /** True: the stream is open, and something came. */
  onOpen?: (isOpen: boolean) => void;
}

export interface Followed {
  id: string;
  message: { type: string; [field: string]: unknown };
}

/** Attempts without a word after which streams count as blocked, if requests get through. */
const MUTE_ATTEMPTS = 2;
/** Of one request, a few minutes: a restart of the service ends no following. */
const POLL_RETRIES = 20;
const LONGEST_TIMER_MS = 2 ** 31 - 1;
const RENEWED = new TaskstreamError("the token is renewed");

export function canStream(): boolean {
  // React Native's fetch gives a body only when it is complete.
  const isNative = typeof navigator !== "undefined" && navigator.product === "ReactNative";
  return typeof ReadableStream !== "undefined" && typeof TextDecoder !== "undefined" && !isNative;
}

/**
 * Yield the messages of a stream until it has ended (204). A cut, a restart or silence opens it again after the last id.
 * Throws StreamsBlockedError if nothing ever comes through, ApiError for a refusal, ConnectionError after `giveUpMs`.
 */
export async function* follow(http: Http, path: string, options: FollowOptions = {}): AsyncGenerator<Followed> {
  if (!canStream()) throw new StreamsBlockedError("streams cannot be read here");
  const { signal, firstWordMs = 10_000, silenceMs = 35_000, giveUpMs = 300_000 } = options;
  let last = options.after ?? "";
  let failures = 0;
  let heardAt = Date.now();
  let hasHeard = false;
  for (;;) {
    throwIfAborted(signal);
    const link = new LinkedAbort(signal);
    let timer: ReturnType<typeof setTimeout> | undefined;
    const patience = (ms: number, error: Error) => {
      clearTimeout(timer);
      timer = setTimeout(() => link.abort(error), ms);
    };
    let failure: unknown = null;
    let hasItems = false;
    let renewal: ReturnType<typeof setTimeout> | undefined;
    try {
      patience(hasHeard ? silenceMs : firstWordMs, new StreamsBlockedError("the stream is held back on the way"));
      const headers: Record<string, string> = { Accept: "text/event-stream" };
      if (last) headers["Last-Event-ID"] = last;
      const response = await http.once("GET", path, { query: options.query, headers }, link.signal);
      if (response.status === 204) return;
      // A stream ends with the token that opened it: it is opened anew before, with the next token.
      const leftMs = http.tokens.renewAt - Date.now();
      if (leftMs < LONGEST_TIMER_MS) renewal = setTimeout(() => link.abort(RENEWED), Math.max(leftMs, 1_000));
      for await (const blocks of blocksOf(response)) {
        patience(silenceMs, new ConnectionError("the stream is silent"));
        if (!hasHeard || failures) options.onOpen?.(true);
        hasHeard = true;
        failures = 0;
        heardAt = Date.now();
        for (const { id, data } of blocks) {
          const message = parse(data, http.bigint) as Followed["message"];
          if (id) last = id;
          if (message.type === "expired") {
            if (http.tokens.canRenew) await http.tokens.renew();
          } else if (message.type !== "reached") {
            hasItems = true;
            yield { id, message };
          }
        }
        throwIfAborted(signal);
      }
    } catch (error) {
      throwIfAborted(signal);
      failure = link.signal.aborted ? link.signal.reason : error;
    } finally {
      clearTimeout(timer);
      clearTimeout(renewal);
      // Also if the caller has stopped listening.
      link.abort();
    }
    if (failure === RENEWED) continue;
    options.onOpen?.(false);
    if (failure instanceof StreamsBlockedError && !hasHeard) throw failure;
    if (failure instanceof RangeError) throw failure;
    if (failure instanceof ApiError && !isPassing(failure)) throw failure;
    failures += 1;
    if (!hasHeard && failures >= MUTE_ATTEMPTS && failure instanceof ConnectionError)
      throw new StreamsBlockedError("streams do not get through", { cause: failure });
    if (Date.now() - heardAt > giveUpMs)
      throw failure instanceof Error ? failure : new ConnectionError("the stream ends again and again");
    // An end without a fault: of a task that has ended, or of a service that stops in good order.
    if (failure === null && hasItems) {
      await sleep(50 + 100 * Math.random(), signal);
      continue;
    }
    const asked = failure instanceof ApiError ? failure.retryAfterMs : null;
    await sleep(asked === null ? backoffMs(Math.min(failures - 1, 6)) : Math.min(asked, 60_000), signal);
  }
}

function isPassing(error: ApiError): boolean {
  return error.status >= 500 || error.status === 429 || error.status === 408 || error.status === 425;
}

/** Yield the blocks of each piece that comes. */
async function* blocksOf(response: Response): AsyncGenerator<EventBlock[]> {
  const isStream = response.headers.get("Content-Type")?.startsWith("text/event-stream");
  if (!isStream || !response.body) {
    response.body?.cancel().catch(() => {});
    throw new StreamsBlockedError(`a ${response.headers.get("Content-Type")} came in place of a stream`);
  }
  const reader = response.body.getReader();
  const decoder = new TextDecoder();
  const parser = new EventParser();
  try {
    for (;;) {
      let piece: { done: boolean; value?: Uint8Array };
      try {
        piece = await reader.read();
      } catch (error) {
        throw new ConnectionError("the stream was cut", { cause: error });
      }
      if (piece.done) return;
      yield parser.push(decoder.decode(piece.value, { stream: true }));
    }
  } finally {
    reader.cancel().catch(() => {});
  }
}

/** Follow a task: its state, then its events, to its end. Polls where streams are blocked. */
export async function* followTask(http: Http, taskId: string, options: FollowOptions): AsyncGenerator<StreamItem> {
  try {
    const stream = follow(http, `/api/task/${segment(taskId)}/stream`, options);
    for await (const { id, message } of stream) yield { ...message, id } as unknown as StreamItem;
  } catch (error) {
    if (!(error instanceof StreamsBlockedError)) throw error;
    yield* pollTask(http, taskId, options);
  }
}

export interface EventAnswer {
  events: RecordedEvent[];
  nextAfter: number | null;
}

async function* pollTask(http: Http, taskId: string, options: FollowOptions): AsyncGenerator<StreamItem> {
  const { signal, pollMs = 2_000 } = options;
  const given = { signal, retries: POLL_RETRIES };
  const path = `/api/task/${segment(taskId)}`;
  // Of an id, the number of a log's event; what came live beyond it may come again with the event that has it.
  let after = sequenceOf(options.after ?? "");
  if (after === null) {
    const last = await http.json<EventAnswer>("GET", `${path}/events`, {
      query: { before: "end", limit: 1 },
      ...given,
    });
    after = last.events[0]?.sequence ?? 0;
    const { taskDetails } = await http.json<{ taskDetails: TaskDetails }>("GET", path, given);
    yield { type: "state", taskId, sequence: after, task: taskDetails, id: String(after) };
  }
  for (;;) {
    const { taskDetails } = await http.json<{ taskDetails: TaskDetails }>("GET", path, {
      query: { bodies: false },
      ...given,
    });
    // Read after the task: what the task shows is in its events.
    for (;;) {
      const page: EventAnswer = await http.json("GET", `${path}/events`, { query: { after }, ...given });
      for (const { sequence, at, by, event } of page.events) {
        after = sequence;
        yield { type: event.type, taskId, sequence, at, by, event, id: String(sequence) } as unknown as StreamItem;
      }
      if (page.nextAfter === null) break;
      after = page.nextAfter;
    }
    if (hasEnded(taskDetails)) return;
    await sleep(pollMs, signal);
  }
}

/** Return the sequence in an id; null if there is none. */
export function sequenceOf(id: string): number | null {
  const [, digits] = /^(?:[^;-]*-)?(\d{1,15})(?:;|$)/.exec(id) ?? [];
  return digits === undefined ? null : Number(digits);
}
