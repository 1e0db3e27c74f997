import type { ComponentChildren } from "preact";
import { useEffect, useRef, useState } from "preact/hooks";
import { Icon } from "./Icon.tsx";

export interface MenuItem {
  label: ComponentChildren;
  onSelect: () => void;
  danger?: boolean;
  disabled?: boolean;
}

/** A button that opens a list of actions: arrows move, Enter acts, Escape closes. */
export function Menu({ label, items, icon = false }: { label: string; items: MenuItem[]; icon?: boolean }) {
  const [open, setOpen] = useState(false);
  const root = useRef<HTMLDivElement>(null);
  useEffect(() => {
    if (!open) return;
    root.current?.querySelector<HTMLElement>('[role="menuitem"]:not([disabled])')?.focus();
    const outside = (event: Event) => !root.current?.contains(event.target as Node) && setOpen(false);
    document.addEventListener("pointerdown", outside);
    return () => document.removeEventListener("pointerdown", outside);
  }, [open]);
  const close = () => {
    setOpen(false);
    root.current?.querySelector<HTMLElement>("button")?.focus();
  };
  const onKey = (event: KeyboardEvent) => {
    if (!open) return;
    event.stopPropagation();
    if (event.key === "Escape" || event.key === "Tab") return close();
    const step = event.key === "ArrowDown" ? 1 : event.key === "ArrowUp" ? -1 : 0;
    if (!step) return;
    event.preventDefault();
    const all = [...(root.current?.querySelectorAll<HTMLElement>('[role="menuitem"]:not([disabled])') ?? [])];
    const at = all.indexOf(document.activeElement as HTMLElement);
    all[(at + step + all.length) % all.length]?.focus();
  };
  return (
    // biome-ignore lint/a11y/noStaticElementInteractions: keys of what is inside
    <div class="menu" ref={root} onKeyDown={onKey}>
      <button
        type="button"
        class={icon ? "quiet" : ""}
        aria-haspopup="menu"
        aria-expanded={open}
        aria-label={icon ? label : undefined}
        onClick={() => setOpen(!open)}
      >
        {icon ? <Icon name="ellipsis" /> : label}
        {!icon && <Icon name="chevron-down" size={14} />}
      </button>
      {open && (
        <div class="menu-list" role="menu" aria-label={label}>
          {items.map((item, index) => (
            <button
              key={index}
              type="button"
              role="menuitem"
              class={item.danger ? "danger-text" : ""}
              disabled={item.disabled}
              onClick={() => {
                close();
                item.onSelect();
              }}
            >
              {item.label}
            </button>
          ))}
        </div>
      )}
    </div>
  );
}
