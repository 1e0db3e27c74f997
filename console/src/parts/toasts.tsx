/** Short notes at the edge: what was done, with an action perhaps. One polite region for screen readers. */
import { signal } from "@preact/signals";
import type { ComponentChildren } from "preact";
import { Icon } from "./Icon.tsx";

export interface Toast {
  id: number;
  tone: "done" | "failed" | "note";
  text: ComponentChildren;
}

const KEPT = 4;
const SECONDS = 6;
export const toasts = signal<Toast[]>([]);
let last = 0;

export function toast(text: ComponentChildren, tone: Toast["tone"] = "done"): void {
  last += 1;
  const id = last;
  toasts.value = [...toasts.value, { id, tone, text }].slice(-KEPT);
  // A failure stays until it is closed.
  if (tone !== "failed") setTimeout(() => close(id), SECONDS * 1000);
}

function close(id: number): void {
  toasts.value = toasts.value.filter((each) => each.id !== id);
}

export function Toasts() {
  return (
    <div class="toasts" role="status" aria-live="polite">
      {toasts.value.map((each) => (
        <div key={each.id} class={`toast toast-${each.tone}`}>
          <Icon name={each.tone === "failed" ? "triangle-alert" : each.tone === "done" ? "check" : "info"} />
          <div>{each.text}</div>
          <button type="button" class="quiet small" aria-label="Close" onClick={() => close(each.id)}>
            <Icon name="x" size={14} />
          </button>
        </div>
      ))}
    </div>
  );
}
