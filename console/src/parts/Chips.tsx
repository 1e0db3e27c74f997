/** The filter of a list as chips, and a field that completes keys and values. The address holds the filter. */
import { useEffect, useId, useRef, useState } from "preact/hooks";
import { address, setQuery } from "../router.ts";
import { Icon } from "./Icon.tsx";
import { useKeys } from "./keys.ts";

export interface FilterKey {
  /** The name in the address and in the API. */
  name: string;
  label: string;
  /** Values to choose from; undefined: any text. */
  values?: string[];
  hint?: string;
  /** May be given several times. */
  many?: boolean;
  /** Return why a value is not valid, else null. */
  check?: (value: string) => string | null;
}

export interface Suggestion {
  value: string;
  count?: number;
}

/** Read `type:resize kind:timeout` and quoted values. What has no key is under "". */
export function parseFilters(text: string): [name: string, value: string][] {
  const found: [string, string][] = [];
  for (const [, name = "", quoted, plain] of text.matchAll(/(?:([A-Za-z]+):)?(?:"([^"]*)"|(\S+))/g))
    found.push([name, quoted ?? plain ?? ""]);
  return found;
}

export function Chips({ keys }: { keys: FilterKey[] }) {
  const query = address.value.query;
  const chips = keys.flatMap((key) => query.getAll(key.name).map((value) => ({ key, value })));
  if (!chips.length) return null;
  return (
    <ul class="chips" aria-label="Filters">
      {chips.map(({ key, value }) => (
        <li key={`${key.name}:${value}`} class="chip">
          <span class="muted">{key.label}</span> <b>{value}</b>
          <button
            type="button"
            class="quiet small"
            aria-label={`Remove the filter ${key.label} ${value}`}
            onClick={() =>
              setQuery({ [key.name]: query.getAll(key.name).filter((each) => each !== value), cursor: undefined })
            }
          >
            <Icon name="x" size={12} />
          </button>
        </li>
      ))}
      {chips.length > 1 && (
        <li>
          <button
            type="button"
            class="quiet small"
            onClick={() =>
              setQuery({ ...Object.fromEntries(keys.map((key) => [key.name, undefined])), cursor: undefined })
            }
          >
            Clear all
          </button>
        </li>
      )}
    </ul>
  );
}

/**
 * A field for filters. `suggest` gives values of a key that is not an enumeration; `onText` deals with text without a
 * key, such as an id, and returns true if it has.
 */
export function FilterBar({
  keys,
  suggest,
  onText,
  placeholder = "Filter: type a key, such as status",
}: {
  keys: FilterKey[];
  suggest?: (name: string) => Promise<Suggestion[]>;
  onText?: (text: string) => boolean;
  placeholder?: string;
}) {
  const [text, setText] = useState("");
  const [open, setOpen] = useState(false);
  const [at, setAt] = useState(0);
  const [values, setValues] = useState<Record<string, Suggestion[]>>({});
  const [wrong, setWrong] = useState("");
  const field = useRef<HTMLInputElement>(null);
  const id = useId();
  useKeys("List", [
    {
      key: "/",
      label: "Filter",
      run: () => {
        field.current?.focus();
        setOpen(true);
      },
    },
  ]);
  const last = text.split(/\s+(?=(?:[^"]*"[^"]*")*[^"]*$)/).at(-1) ?? "";
  const [, name, part] = last.match(/^([A-Za-z]+):"?(.*?)"?$/) ?? [];
  const key = name ? keys.find((each) => each.name.toLowerCase() === name.toLowerCase()) : undefined;
  useEffect(() => {
    if (!key || key.values || !suggest || values[key.name]) return;
    let ended = false;
    suggest(key.name)
      .then((found) => !ended && setValues((had) => ({ ...had, [key.name]: found })))
      .catch(() => {});
    return () => {
      ended = true;
    };
  }, [key?.name]);
  const options = key
    ? (key.values?.map((value): Suggestion => ({ value })) ?? values[key.name] ?? [])
        .filter(({ value }) => value.toLowerCase().includes((part ?? "").toLowerCase()))
        .slice(0, 12)
        .map((each) => ({
          text: each.value,
          note: each.count === undefined ? "" : String(each.count),
          insert: `${key.name}:${quoted(each.value)}`,
          ends: true,
        }))
    : keys
        .filter((each) => `${each.name} ${each.label}`.toLowerCase().includes(last.toLowerCase()))
        .slice(0, 30)
        .map((each) => ({ text: each.name, note: each.hint ?? each.label, insert: `${each.name}:`, ends: false }));

  const apply = (whole: string) => {
    const change: Record<string, string[]> = {};
    const rest: string[] = [];
    for (const [given, value] of parseFilters(whole)) {
      const found = keys.find((each) => each.name.toLowerCase() === given.toLowerCase());
      if (!given) rest.push(value);
      else if (!found) return setWrong(`there is no filter "${given}"`);
      else {
        const reason = found.check?.(value);
        if (reason) return setWrong(`${found.name}: ${reason}`);
        if (found.values && !found.values.includes(value))
          return setWrong(`${found.name}: one of ${found.values.join(", ")}`);
        const before = change[found.name] ?? (found.many ? address.value.query.getAll(found.name) : []);
        change[found.name] = found.many ? [...new Set([...before, value])] : [value];
      }
    }
    if (rest.length && !onText?.(rest.join(" "))) return setWrong(`"${rest.join(" ")}" has no key: write key:value`);
    setWrong("");
    setText("");
    setOpen(false);
    if (Object.keys(change).length) setQuery({ ...change, cursor: undefined });
  };
  const choose = (index: number) => {
    const option = options[index];
    if (!option) return;
    const before = text.slice(0, text.length - last.length);
    if (option.ends) apply(before + option.insert);
    else {
      setText(before + option.insert);
      setAt(-1);
      field.current?.focus();
    }
  };
  const onKey = (event: KeyboardEvent) => {
    if (event.key === "ArrowDown" || event.key === "ArrowUp") {
      event.preventDefault();
      setOpen(true);
      const step = event.key === "ArrowDown" ? 1 : -1;
      setAt((at + step + options.length) % Math.max(1, options.length));
    } else if (event.key === "Enter") {
      event.preventDefault();
      const option = options[at];
      if (open && option && (option.ends || !text.includes(":") || last === "")) choose(at);
      else if (text.trim()) apply(text);
    } else if (event.key === "Escape") {
      event.preventDefault();
      if (open) setOpen(false);
      else field.current?.blur();
    } else if (event.key === "Backspace" && !text) {
      const had = keys
        .flatMap((each) => address.value.query.getAll(each.name).map((value) => [each.name, value] as const))
        .at(-1);
      if (had) setQuery({ [had[0]]: address.value.query.getAll(had[0]).slice(0, -1), cursor: undefined });
    }
  };
  return (
    <div class="filter">
      <Icon name="funnel" />
      <input
        ref={field}
        type="text"
        role="combobox"
        aria-label="Filter"
        aria-expanded={open && options.length > 0}
        aria-controls={`${id}-list`}
        aria-autocomplete="list"
        aria-activedescendant={open && options[at] ? `${id}-${at}` : undefined}
        aria-invalid={wrong ? "true" : undefined}
        aria-describedby={wrong ? `${id}-wrong` : undefined}
        autocomplete="off"
        spellcheck={false}
        placeholder={placeholder}
        value={text}
        onFocus={() => setOpen(true)}
        onBlur={() => setTimeout(() => setOpen(false), 150)}
        onInput={(event) => {
          setText(event.currentTarget.value);
          setOpen(true);
          setAt(0);
          setWrong("");
        }}
        onKeyDown={onKey}
      />
      {open && options.length > 0 && (
        <div class="options" id={`${id}-list`} role="listbox" aria-label="Suggestions">
          {options.map((option, index) => (
            // biome-ignore lint/a11y/useFocusableInteractive: focus stays in the field
            // biome-ignore lint/a11y/useKeyWithClickEvents: the field has the keys
            <div
              key={option.insert}
              id={`${id}-${index}`}
              role="option"
              aria-selected={index === at}
              class={index === at ? "option option-on" : "option"}
              onMouseDown={(event) => event.preventDefault()}
              onClick={() => choose(index)}
            >
              <span>{option.text}</span>
              <span class="muted">{option.note}</span>
            </div>
          ))}
        </div>
      )}
      {wrong && (
        <p class="field-error" id={`${id}-wrong`} role="alert">
          {wrong}
        </p>
      )}
    </div>
  );
}

const quoted = (value: string) => (/\s/.test(value) ? `"${value}"` : value);
