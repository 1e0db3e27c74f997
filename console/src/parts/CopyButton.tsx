import { useRef, useState } from "preact/hooks";
import { Icon } from "./Icon.tsx";

/** Copy text. The clipboard API exists on https only; the fallback needs its node inside an open dialog. */
export async function copyText(text: string, near?: Element | null): Promise<boolean> {
  try {
    if (navigator.clipboard) {
      await navigator.clipboard.writeText(text);
      return true;
    }
  } catch {
    // Denied: as on plain http.
  }
  const area = document.createElement("textarea");
  area.value = text;
  area.className = "offscreen";
  area.setAttribute("aria-hidden", "true");
  const focused = document.activeElement as HTMLElement | null;
  (near?.closest("dialog") ?? document.body).append(area);
  area.select();
  const done = document.execCommand("copy");
  area.remove();
  focused?.focus();
  return done;
}

export function CopyButton({ text, label = "Copy", word }: { text: string; label?: string; word?: string }) {
  const [done, setDone] = useState<boolean | null>(null);
  const button = useRef<HTMLButtonElement>(null);
  const copy = async (event: Event) => {
    event.preventDefault();
    event.stopPropagation();
    setDone(await copyText(text, button.current));
    setTimeout(() => setDone(null), 1500);
  };
  return (
    <button
      ref={button}
      type="button"
      class="quiet small"
      title={label}
      aria-label={word ? undefined : label}
      onClick={copy}
    >
      <Icon name={done ? "check" : "copy"} size={14} />
      {word && <span>{done === false ? "not allowed" : done ? "copied" : word}</span>}
    </button>
  );
}
