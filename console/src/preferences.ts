/** What a person chose in this browser: kept in localStorage, or for this page if storage is denied. */
import { effect, signal } from "@preact/signals";

export interface Preferences {
  theme: "system" | "light" | "dark";
  density: "compact" | "comfortable";
  /** A name of the IANA data base, "UTC", or "" for the browser's zone. */
  zone: string;
  /** Keys without Ctrl: WCAG 2.1.4 wants them switchable. */
  singleKeys: boolean;
  live: boolean;
}

const KEY = "taskstream.preferences";
const DEFAULTS: Preferences = { theme: "system", density: "compact", zone: "", singleKeys: true, live: true };

function read(): Preferences {
  try {
    return { ...DEFAULTS, ...JSON.parse(localStorage.getItem(KEY) ?? "{}") };
  } catch {
    return DEFAULTS;
  }
}

export const preferences = signal<Preferences>(read());

export function prefer(change: Partial<Preferences>): void {
  preferences.value = { ...preferences.value, ...change };
  try {
    localStorage.setItem(KEY, JSON.stringify(preferences.value));
  } catch {
    // Denied: the choice holds until the page is closed.
  }
}

effect(() => {
  if (typeof document === "undefined") return;
  const { theme, density } = preferences.value;
  if (theme === "system") delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = theme;
  document.documentElement.dataset.density = density;
});
