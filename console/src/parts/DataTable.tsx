/** A list as a real table: at most 200 rows, sorted and paged by the service; keys j k x o Enter. */
import type { ComponentChildren } from "preact";
import { useEffect, useRef, useState } from "preact/hooks";
import { Icon } from "./Icon.tsx";
import { useKeys } from "./keys.ts";
import { Skeleton } from "./states.tsx";

export interface Column<Row> {
  id: string;
  title: string;
  render: (row: Row) => ComponentChildren;
  /** Numbers are aligned to the right. */
  number?: boolean;
  /** Takes the space that is left, cut with an ellipsis. */
  wide?: boolean;
  /** Hidden on narrow screens: cards show the others. */
  minor?: boolean;
  /** The value of `sort` that sorts by it, if the service can. */
  sort?: string;
  className?: string;
}

interface Props<Row> {
  /** What the list is, for screen readers. */
  label: string;
  columns: Column<Row>[];
  rows: Row[] | undefined;
  rowKey: (row: Row) => string;
  /** Said to screen readers; undefined: unknown. */
  total?: number;
  sort?: string;
  onSort?: (sort: string) => void;
  onOpen?: (row: Row) => void;
  onPeek?: (row: Row) => void;
  selection?: ReadonlySet<string>;
  onSelection?: (selection: ReadonlySet<string>) => void;
  /** Rows that match no more: they stay, dimmed, until the next load. */
  dimmed?: (row: Row) => boolean;
  /** True: keys reach the rows of another table of the page. */
  keyless?: boolean;
  /** Of a service that does not answer. */
  stale?: boolean;
  empty?: ComponentChildren;
  rowClass?: (row: Row) => string;
  /** Shown as the first thing of each row on phones. */
  onCursor?: (row: Row | null) => void;
}

export function DataTable<Row>(props: Props<Row>) {
  const {
    label,
    columns,
    rows,
    rowKey,
    total,
    sort,
    onSort,
    onOpen,
    onPeek,
    selection,
    onSelection,
    dimmed,
    stale,
    empty,
  } = props;
  const [cursor, setCursor] = useState<string | null>(null);
  const anchor = useRef<string | null>(null);
  const body = useRef<HTMLTableSectionElement>(null);
  const shown = rows ?? [];
  const at = shown.findIndex((row) => rowKey(row) === cursor);
  const current = shown[at];
  useEffect(() => props.onCursor?.(current ?? null), [cursor]);
  /** The page knows the row at once, not after the next paint: its keys may follow. */
  const point = (key: string) => {
    setCursor(key);
    props.onCursor?.(shown.find((row) => rowKey(row) === key) ?? null);
  };

  const go = (step: number, extend = false) => {
    const next = shown[Math.max(0, Math.min(shown.length - 1, at < 0 ? (step > 0 ? 0 : shown.length - 1) : at + step))];
    if (!next) return;
    const key = rowKey(next);
    if (extend && selection && onSelection) onSelection(new Set([...selection, key, ...(cursor ? [cursor] : [])]));
    point(key);
    body.current?.querySelector<HTMLElement>(`[data-key="${CSS.escape(key)}"]`)?.focus();
  };
  const toggle = (key: string, extend = false) => {
    if (!selection || !onSelection) return;
    const next = new Set(selection);
    const keys = shown.map(rowKey);
    const from = anchor.current ? keys.indexOf(anchor.current) : -1;
    if (extend && from >= 0) {
      const to = keys.indexOf(key);
      for (const each of keys.slice(Math.min(from, to), Math.max(from, to) + 1)) next.add(each);
    } else if (!next.delete(key)) next.add(key);
    anchor.current = key;
    onSelection(next);
  };
  const bindings = [
    { key: "j", label: "Next row", run: () => go(1) },
    { key: "k", label: "Previous row", run: () => go(-1) },
    ...(onSelection
      ? [
          { key: "x", label: "Select the row", run: () => current && toggle(rowKey(current)) },
          { key: "Shift+x", label: "Select up to the row", run: () => current && toggle(rowKey(current), true) },
          { key: "Shift+j", label: "Extend the selection down", run: () => go(1, true) },
          { key: "Shift+k", label: "Extend the selection up", run: () => go(-1, true) },
        ]
      : []),
    ...(onOpen
      ? [
          {
            key: "Enter",
            label: "Open the row",
            run: (event: KeyboardEvent) => {
              const focused = event.target as HTMLElement;
              if (focused.closest("a, button, summary")) return focused.click();
              if (current) onOpen(current);
            },
          },
        ]
      : []),
    ...(onPeek ? [{ key: "o", label: "Look into the row", run: () => current && onPeek(current) }] : []),
  ];
  useKeys(label, props.keyless ? [] : bindings);

  if (rows === undefined) return <Skeleton rows={8} label={`Loading: ${label}`} />;
  if (rows.length === 0) return <>{empty ?? null}</>;
  const all = selection && shown.every((row) => selection.has(rowKey(row)));
  return (
    <div class={`table-frame ${stale ? "stale" : ""}`} role="region" aria-label={label} tabIndex={0}>
      <table class="data" aria-rowcount={total === undefined ? -1 : total + 1}>
        <thead>
          <tr>
            {selection && (
              <th class="check" scope="col">
                <input
                  type="checkbox"
                  aria-label="Select all rows of this page"
                  checked={all}
                  onChange={() =>
                    onSelection?.(
                      all
                        ? new Set([...selection].filter((key) => !shown.some((row) => rowKey(row) === key)))
                        : new Set([...selection, ...shown.map(rowKey)]),
                    )
                  }
                />
              </th>
            )}
            {columns.map((column) => {
              const down = sort === `-${column.sort}`;
              const up = column.sort !== undefined && sort === column.sort;
              return (
                <th
                  key={column.id}
                  scope="col"
                  class={classes(column)}
                  aria-sort={up ? "ascending" : down ? "descending" : undefined}
                >
                  {column.sort && onSort ? (
                    <button type="button" class="sort" onClick={() => onSort(down ? column.sort! : `-${column.sort}`)}>
                      {column.title}
                      {(up || down) && <Icon name={up ? "arrow-up" : "arrow-down"} size={12} />}
                    </button>
                  ) : (
                    column.title
                  )}
                </th>
              );
            })}
          </tr>
        </thead>
        <tbody ref={body}>
          {shown.map((row) => {
            const key = rowKey(row);
            return (
              <tr
                key={key}
                data-key={key}
                tabIndex={-1}
                class={`${key === cursor ? "cursor" : ""} ${dimmed?.(row) ? "dimmed" : ""} ${props.rowClass?.(row) ?? ""}`}
                aria-selected={selection ? selection.has(key) : undefined}
                onFocus={() => point(key)}
                onClick={(event) => {
                  point(key);
                  if ((event.target as HTMLElement).closest("a, button, input, label, summary")) return;
                  if (getSelection()?.toString()) return;
                  (onPeek ?? onOpen)?.(row);
                }}
              >
                {selection && (
                  <td class="check">
                    <input
                      type="checkbox"
                      aria-label={`Select ${key}`}
                      checked={selection.has(key)}
                      onClick={(event) => {
                        event.stopPropagation();
                        toggle(key, event.shiftKey);
                      }}
                    />
                  </td>
                )}
                {columns.map((column) => (
                  <td key={column.id} class={classes(column)} data-title={column.title}>
                    {column.render(row)}
                  </td>
                ))}
              </tr>
            );
          })}
        </tbody>
      </table>
    </div>
  );
}

function classes<Row>(column: Column<Row>): string {
  return [column.number && "number", column.wide && "wide", column.minor && "minor", column.className]
    .filter(Boolean)
    .join(" ");
}

/** What is below a list: how many, of when, and its pages. */
export function Pager({
  shown,
  asOf,
  onNext,
  onFirst,
  children,
}: {
  shown: ComponentChildren;
  asOf?: ComponentChildren;
  onNext?: (() => void) | null;
  onFirst?: (() => void) | null;
  children?: ComponentChildren;
}) {
  return (
    <nav class="pager" aria-label="Pages of the list">
      <span>{shown}</span>
      {asOf && <span class="muted">{asOf}</span>}
      {children}
      {(onFirst || onNext) && (
        <span class="pager-buttons">
          <button type="button" disabled={!onFirst} onClick={() => onFirst?.()}>
            First
          </button>
          <button type="button" disabled={!onNext} onClick={() => onNext?.()}>
            Next
          </button>
        </span>
      )}
    </nav>
  );
}
