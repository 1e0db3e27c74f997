/** One stream of events: reconnects where it stopped, and lets go of a tab that nobody sees. */
import { ApiError, request } from "../api/client.ts";
import { isPaused } from "../parts/resource.ts";
import { EventParser, type Message } from "./sse.ts";

export type StreamState = "connecting" | "open" | "ended" | "resting" | "refused";

/** Nothing heard for so long: the connection is dead. The service sends a heartbeat every 15 s. */
const SILENCE_MS = 30_000;
const HIDDEN_MS = 20_000;
const LONGEST_WAIT_MS = 30_000;

export interface StreamOptions {
  /** The id or sequence to resume after; "": from the present state. */
  after: string;
  onMessage: (message: { type: string; [field: string]: unknown }, id: string) => void;
  onState?: (state: StreamState, error: Error | null) => void;
}

/** Follow a stream until it ends or the returned function is called. */
export function follow(path: string, { after, onMessage, onState }: StreamOptions): () => void {
  let last = after;
  let closed = false;
  let failures = 0;
  let connection: AbortController | null = null;
  let timer: ReturnType<typeof setTimeout> | undefined;
  let hiding: ReturnType<typeof setTimeout> | undefined;
  let isFirst = true;

  const say = (state: StreamState, error: Error | null = null) => onState?.(state, error);
  const again = (seconds?: number) => {
    failures += 1;
    const wait = Math.min(LONGEST_WAIT_MS, 1000 * 2 ** (failures - 1)) * (0.75 + Math.random() / 2);
    timer = setTimeout(connect, seconds ? seconds * 1000 : wait);
  };
  const connect = async () => {
    clearTimeout(timer);
    if (closed || document.visibilityState === "hidden" || isPaused.peek()) return say("resting");
    connection?.abort();
    const mine = new AbortController();
    connection = mine;
    say("connecting");
    try {
      const headers: Record<string, string> = last ? { "Last-Event-ID": last } : {};
      const response = await request("GET", path, { headers, signal: mine.signal, noted: isFirst });
      isFirst = false;
      if (response.status === 204) return say("ended");
      say("open");
      await read(response, mine);
      if (closed || connection !== mine) return;
      again();
    } catch (error) {
      if (closed || connection !== mine) return;
      const status = error instanceof ApiError ? error.status : 0;
      if (status >= 400 && status < 500 && status !== 429 && status !== 408) return say("refused", error as Error);
      say("connecting", error as Error);
      again(error instanceof ApiError ? (error.retryAfter ?? undefined) : undefined);
    }
  };
  const read = async (response: Response, mine: AbortController) => {
    const reader = response.body?.getReader();
    if (!reader) return;
    const parser = new EventParser();
    const decoder = new TextDecoder();
    let silence = setTimeout(() => mine.abort(), SILENCE_MS);
    try {
      for (;;) {
        const { done, value } = await reader.read();
        clearTimeout(silence);
        if (done || closed || connection !== mine) return;
        silence = setTimeout(() => mine.abort(), SILENCE_MS);
        for (const message of parser.push(decoder.decode(value, { stream: true }))) take(message);
        failures = 0;
      }
    } finally {
      clearTimeout(silence);
      reader.cancel().catch(() => {});
    }
  };
  const take = ({ id, data }: Message) => {
    if (id) last = id;
    onMessage(JSON.parse(data), id);
  };
  const onVisibility = () => {
    clearTimeout(hiding);
    if (document.visibilityState === "hidden") {
      hiding = setTimeout(() => {
        connection?.abort();
        connection = null;
        clearTimeout(timer);
        say("resting");
      }, HIDDEN_MS);
    } else if (connection === null) void connect();
  };
  const stopPausing = isPaused.subscribe((paused) => {
    if (paused) {
      connection?.abort();
      connection = null;
      clearTimeout(timer);
    } else if (!closed && connection === null) void connect();
  });
  document.addEventListener("visibilitychange", onVisibility);
  return () => {
    closed = true;
    clearTimeout(timer);
    clearTimeout(hiding);
    connection?.abort();
    stopPausing();
    document.removeEventListener("visibilitychange", onVisibility);
  };
}
