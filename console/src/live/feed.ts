/**
 * Live topics of what the page shows: one stream of `GET /api/live` for all parts of a tab. It is opened anew shortly after
 * the topics change, and resumes by id. Pages poll while it is not open.
 */
import { effect, signal } from "@preact/signals";
import { useEffect, useRef } from "preact/hooks";
import { asking, token } from "../session.ts";
import { follow } from "./stream.ts";

export interface LiveMessage {
  topic?: string;
  type: string;
  [field: string]: unknown;
}

type Handler = (message: LiveMessage) => void;

const SETTLE_MS = 250;
const FIRST_WORD_MS = 20_000;

/** True: the stream is open, and what it says is complete. */
export const isLive = signal(false);
/** True: the stream is open and says nothing, not even a heartbeat: a proxy collects it. */
export const isHeldBack = signal(false);

const handlers = new Map<string, Set<Handler>>();
let opened = "";
let close: (() => void) | null = null;
let lastId = "";
let settle: ReturnType<typeof setTimeout> | undefined;

/** Listen to a topic; the returned function ends it. */
export function subscribe(topic: string, handler: Handler): () => void {
  const own = handlers.get(topic) ?? new Set();
  handlers.set(topic, own.add(handler));
  plan();
  return () => {
    own.delete(handler);
    if (!own.size && handlers.get(topic) === own) handlers.delete(topic);
    plan();
  };
}

/** Listen to a topic while the component is shown; null: to none. */
export function useLive(topic: string | null, handler: Handler): void {
  const latest = useRef(handler);
  latest.current = handler;
  useEffect(() => (topic === null ? undefined : subscribe(topic, (message) => latest.current(message))), [topic]);
}

/**
 * A browser has six connections for a host. So a tab that opens its stream says so, and hidden ones let go of theirs at
 * once, not only a while after they were hidden.
 */
const tabs = typeof BroadcastChannel === "undefined" ? null : new BroadcastChannel("taskstream.live");
const isHidden = () => document.visibilityState === "hidden";

function plan(): void {
  clearTimeout(settle);
  settle = setTimeout(renew, SETTLE_MS);
}

function renew(): void {
  const topics = [...handlers.keys()].sort();
  const wanted = token.peek() && topics.length ? `${token.peek()} ${topics.join("\n")}` : "";
  if (wanted === opened) return;
  opened = wanted;
  close?.();
  close = null;
  isLive.value = false;
  if (!wanted) return;
  if (isHidden()) {
    // It is opened when the tab is looked at.
    opened = "";
    return;
  }
  tabs?.postMessage("opened");
  close = open(topics);
}

function open(topics: string[]): () => void {
  let watch: ReturnType<typeof setTimeout> | undefined;
  const rest = () => {
    clearTimeout(watch);
    isLive.value = false;
    isHeldBack.value = false;
  };
  const end = follow(`/api/live?${new URLSearchParams(topics.map((topic) => ["topic", topic]))}`, {
    after: lastId,
    onMessage: (message, id) => {
      clearTimeout(watch);
      isHeldBack.value = false;
      if (id) lastId = id;
      deliver(message);
    },
    onState: (state) => {
      rest();
      if (state === "open")
        watch = setTimeout(() => {
          isHeldBack.value = true;
        }, FIRST_WORD_MS);
    },
  });
  return () => {
    end();
    rest();
  };
}

function deliver(message: LiveMessage): void {
  if (message.type === "open") {
    isLive.value = true;
    for (const all of handlers.values()) for (const each of all) each(message);
  } else if (message.type === "expired") {
    asking.value = "Your token has expired.";
  } else if (message.topic !== undefined) {
    for (const each of handlers.get(message.topic) ?? []) each(message);
  }
}

function letGo(): void {
  close?.();
  close = null;
  opened = "";
}

if (typeof document !== "undefined") {
  effect(() => {
    token.value;
    plan();
  });
  document.addEventListener("visibilitychange", () => !isHidden() && plan());
  if (tabs) tabs.onmessage = () => isHidden() && letGo();
}
