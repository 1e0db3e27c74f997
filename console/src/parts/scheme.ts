/** Whether the page is dark: what was chosen, or what the system says. */
import { computed, signal } from "@preact/signals";
import { preferences } from "../preferences.ts";

const system = typeof matchMedia === "undefined" ? null : matchMedia("(prefers-color-scheme: dark)");
const systemIsDark = signal(system?.matches ?? false);
system?.addEventListener("change", (event) => {
  systemIsDark.value = event.matches;
});

export const prefersDark = computed(() => {
  const { theme } = preferences.value;
  return theme === "system" ? systemIsDark.value : theme === "dark";
});
