/** Who is connected: the token, and what it may do. The token is in sessionStorage and in memory, nowhere else. */
import { computed, signal } from "@preact/signals";

export interface Me {
  subject: string;
  roles: string[];
  /** ISO 8601; null: never. */
  expiresAt: string | null;
  version: string;
  may: { submit: boolean; readAll: boolean; administer: boolean; readPayloads: boolean };
}

const KEY = "taskstream.token";

function stored(): string {
  try {
    return sessionStorage.getItem(KEY) ?? "";
  } catch {
    return "";
  }
}

export const token = signal(stored());
export const me = signal<Me | null>(null);
/** Why a token is asked for; null: it is not asked for. */
export const asking = signal<string | null>(token.value ? null : "");

export const isAdmin = computed(() => me.value?.may.administer ?? false);
export const readsAll = computed(() => me.value?.may.readAll ?? false);
/** False for auditors: they see everything and no action. */
export const maySubmit = computed(() => me.value?.may.submit ?? false);

export function signIn(given: string): void {
  token.value = given.trim().replace(/^Bearer\s+/i, "");
  asking.value = null;
  try {
    sessionStorage.setItem(KEY, token.value);
  } catch {
    // Denied: the token lives until the page is closed.
  }
}

export function signOut(reason = ""): void {
  token.value = "";
  me.value = null;
  asking.value = reason;
  try {
    sessionStorage.removeItem(KEY);
  } catch {
    // It was not stored.
  }
}

/** Take a token out of the address `#/token=…`, also out of the history. True: there was one. */
export function takeToken(hash: string): boolean {
  const [, given] = hash.match(/^#\/?token=([^&]+)/) ?? [];
  if (!given) return false;
  const to = new URLSearchParams(hash.slice(hash.indexOf("token="))).get("to") ?? "/";
  history.replaceState(null, "", `#${to.startsWith("/") ? to : "/"}`);
  let text = given;
  try {
    text = decodeURIComponent(given);
  } catch {
    // As it is.
  }
  signIn(text);
  return true;
}
