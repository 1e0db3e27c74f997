import type { ComponentChildren } from "preact";

/** A search in a text that is shown: Enter goes to the next place, Shift and Enter to the one before. */
export function FindField({
  label,
  query,
  found,
  at,
  onQuery,
  onGo,
  children,
}: {
  label: string;
  query: string;
  /** Number of places. */
  found: number;
  /** The place that is shown, from 0; -1: none yet. */
  at: number;
  onQuery: (query: string) => void;
  onGo: (index: number) => void;
  /** Which place of how many, in words; shown if there is one. */
  children: ComponentChildren;
}) {
  return (
    <>
      <input
        type="search"
        aria-label={label}
        placeholder="Find"
        value={query}
        onInput={(event) => onQuery(event.currentTarget.value)}
        onKeyDown={(event) => {
          if (event.key === "Enter" && found) {
            event.preventDefault();
            onGo((at + (event.shiftKey ? -1 : 1) + found) % found);
          }
        }}
      />
      {query && (
        <span class="muted meta number" role="status">
          {found ? children : "not found"}
        </span>
      )}
    </>
  );
}
