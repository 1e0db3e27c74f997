/** Keys without a mouse. All that are active are listed by `?`. */
import { signal } from "@preact/signals";
import { useLayoutEffect, useRef } from "preact/hooks";
import { preferences } from "../preferences.ts";
import { openDialogs } from "./Dialog.tsx";

export interface KeyBinding {
  /** As the event calls it: "j", "?", "Escape", "Shift+x"; two in a row: "g o"; with Ctrl or ⌘: "Mod+k". */
  key: string;
  label: string;
  run: (event: KeyboardEvent) => void;
  /** Not shown by `?`. */
  hidden?: boolean;
}

export interface KeyGroup {
  title: string;
  bindings: KeyBinding[];
}

export const keyGroups = signal<KeyGroup[]>([]);
const SEQUENCE_MS = 1200;
let pending = "";
let pendingAt = 0;

/** Bind keys while the component is shown. The newest binding of a key wins. */
export function useKeys(title: string, bindings: KeyBinding[]): void {
  const latest = useRef(bindings);
  latest.current = bindings;
  const signature = bindings.map((each) => each.key).join(" ");
  useLayoutEffect(() => {
    const group: KeyGroup = {
      title,
      bindings: latest.current.map((each, index) => ({
        ...each,
        run: (event: KeyboardEvent) => latest.current[index]?.run(event),
      })),
    };
    keyGroups.value = [...keyGroups.peek(), group];
    return () => {
      keyGroups.value = keyGroups.peek().filter((each) => each !== group);
    };
  }, [title, signature]);
}

export function isTyping(target: EventTarget | null): boolean {
  const element = target as HTMLElement | null;
  if (!element?.closest) return false;
  if (element.isContentEditable || element.closest("textarea, select")) return true;
  const input = element.closest("input");
  return input !== null && !["checkbox", "radio", "button"].includes(input.type);
}

function nameOf(event: KeyboardEvent): string {
  const mod = event.ctrlKey || event.metaKey ? "Mod+" : "";
  // A letter or sign says itself that Shift was held; arrows and letters with a meaning of their own do not.
  const shift = event.shiftKey && (event.key.length > 1 || /^[A-Z]$/.test(event.key)) ? "Shift+" : "";
  const alt = event.altKey ? "Alt+" : "";
  const key = event.key.length === 1 && shift ? event.key.toLowerCase() : event.key;
  return `${mod}${alt}${shift}${key}`;
}

function find(name: string): KeyBinding | undefined {
  for (const group of [...keyGroups.peek()].reverse())
    for (const binding of group.bindings) if (binding.key === name) return binding;
  return undefined;
}

export function listenToKeys(): void {
  document.addEventListener("keydown", (event) => {
    if (event.defaultPrevented || event.isComposing) return;
    const name = nameOf(event);
    const withMod = name.startsWith("Mod+") || name.startsWith("Alt+");
    if (openDialogs.peek() > 0) return;
    if (!withMod) {
      if (isTyping(event.target)) return;
      if (!preferences.peek().singleKeys && event.key.length === 1) return;
    }
    const now = event.timeStamp;
    const sequence = pending && now - pendingAt < SEQUENCE_MS ? find(`${pending} ${name}`) : undefined;
    pending = "";
    const found = sequence ?? find(name);
    if (found) {
      event.preventDefault();
      found.run(event);
      return;
    }
    if (keyGroups.peek().some((group) => group.bindings.some((each) => each.key.startsWith(`${name} `)))) {
      pending = name;
      pendingAt = now;
      event.preventDefault();
    }
  });
}
