/** Ctrl K: pages, ids, types, servers, owners, and the actions of the page, by a few letters. */
import { useEffect, useId, useState } from "preact/hooks";
import { get } from "../api/client.ts";
import type { TaskCounts, TaskPage } from "../api/types.ts";
import { Dialog } from "../parts/Dialog.tsx";
import { Icon } from "../parts/Icon.tsx";
import type { IconName } from "../parts/icons.ts";
import { keyGroups } from "../parts/keys.ts";
import { href, navigate } from "../router.ts";
import { hasPage } from "../routes.ts";
import { readsAll } from "../session.ts";
import { ID_START } from "../text/taskFilter.ts";
import { rank } from "./rank.ts";

export interface PaletteItem {
  text: string;
  note: string;
  icon: IconName;
  run: () => void;
}

const SHOWN = 12;
const PAUSE_MS = 150;

const go = (to: string) => () => navigate(to);

/** Values that tasks have, read when the palette opens; null: not read. */
async function named(by: string, icon: IconName, page?: string): Promise<PaletteItem[]> {
  const counts = await get<TaskCounts>("/api/tasks/count", { query: { by }, noted: false });
  return (counts.by ?? [])
    .filter(({ value }) => value)
    .map(({ value, count }) => ({
      text: value,
      note: `${by}, ${count} tasks`,
      icon,
      run: go(
        page && hasPage(`${page}/x`)
          ? href(`/${page.slice(2)}/{id}`, { id: value })
          : href("/tasks", {}, { [by]: value }),
      ),
    }));
}

async function tasksWithId(text: string, signal: AbortSignal): Promise<PaletteItem[]> {
  const item = (id: string, note: string): PaletteItem => ({
    text: id,
    note,
    icon: "list",
    run: go(href("/task/{id}", { id })),
  });
  if (text.includes("~")) return [item(text, "open this task")];
  const page = await get<TaskPage>("/api/tasks", { query: { id: text.toUpperCase(), limit: 5 }, signal, noted: false });
  return page.tasks.map((task) => item(task.id, `task, ${task.type}, ${task.status.toLowerCase()}`));
}

export function Palette({ pages, onClose }: { pages: PaletteItem[]; onClose: () => void }) {
  const [text, setText] = useState("");
  const [at, setAt] = useState(0);
  const [found, setFound] = useState<PaletteItem[]>([]);
  const [names, setNames] = useState<PaletteItem[]>([]);
  const id = useId();
  // The keys of the page as they were: the dialog has none of its own.
  const [actions] = useState<PaletteItem[]>(() =>
    keyGroups
      .peek()
      .filter((group) => group.title !== "Everywhere")
      .flatMap((group) => group.bindings.filter((each) => !each.hidden))
      .map((each) => ({
        text: each.label,
        note: `key ${each.key}`,
        icon: "zap",
        run: () => each.run(new KeyboardEvent("keydown", { key: each.key })),
      })),
  );
  useEffect(() => {
    let ended = false;
    const wanted = [named("type", "boxes", "#/types"), named("server", "server", "#/fleet")];
    if (readsAll.value) wanted.push(named("owner", "user"));
    for (const each of wanted) each.then((items) => !ended && setNames((had) => [...had, ...items])).catch(() => {});
    return () => {
      ended = true;
    };
  }, []);
  useEffect(() => {
    setAt(0);
    const wanted = text.trim();
    if (!ID_START.test(wanted)) return setFound([]);
    const stop = new AbortController();
    const timer = setTimeout(() => {
      tasksWithId(wanted, stop.signal).then(setFound, () => {});
    }, PAUSE_MS);
    return () => {
      clearTimeout(timer);
      stop.abort();
    };
  }, [text]);
  const items = [...found, ...rank(text, [...pages, ...names, ...actions])].slice(0, SHOWN);
  const choose = (item: PaletteItem | undefined) => {
    if (!item) return;
    onClose();
    // After the dialog: focus goes back first.
    setTimeout(item.run);
  };
  const onKey = (event: KeyboardEvent) => {
    const step = event.key === "ArrowDown" ? 1 : event.key === "ArrowUp" ? -1 : 0;
    if (step) {
      event.preventDefault();
      setAt((at + step + items.length) % Math.max(1, items.length));
    } else if (event.key === "Enter") {
      event.preventDefault();
      if (ID_START.test(text.trim()) && text.includes("~"))
        choose({ text, note: "", icon: "list", run: go(href("/task/{id}", { id: text.trim() })) });
      else choose(items[at]);
    }
  };
  return (
    <Dialog title="Go to" onClose={onClose}>
      <input
        class="palette-field"
        type="text"
        role="combobox"
        aria-label="Go to"
        aria-expanded="true"
        aria-controls={`${id}-list`}
        aria-activedescendant={items[at] ? `${id}-${at}` : undefined}
        autocomplete="off"
        spellcheck={false}
        placeholder="A page, an id, a type, a server, an action"
        value={text}
        onInput={(event) => setText(event.currentTarget.value)}
        onKeyDown={onKey}
      />
      <div class="palette-list" id={`${id}-list`} role="listbox" aria-label="What fits">
        {items.map((item, index) => (
          // biome-ignore lint/a11y/useFocusableInteractive: focus stays in the field
          // biome-ignore lint/a11y/useKeyWithClickEvents: the field has the keys
          <div
            key={`${item.note} ${item.text}`}
            id={`${id}-${index}`}
            role="option"
            aria-selected={index === at}
            class={index === at ? "option option-on" : "option"}
            onClick={() => choose(item)}
          >
            <span class="option-text">
              <Icon name={item.icon} size={14} /> {item.text}
            </span>
            <span class="muted">{item.note}</span>
          </div>
        ))}
        {items.length === 0 && <p class="muted">Nothing fits.</p>}
      </div>
    </Dialog>
  );
}
