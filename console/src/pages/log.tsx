import { useEffect, useRef, useState } from "preact/hooks";
import { type ApiError, get } from "../api/client.ts";
import type { Schema } from "../api/types.ts";
import { Entry, entryKey, type LogEntry, Subject } from "../log/Entry.tsx";
import { inShort, KEYS, logQuery, placeOf } from "../log/filters.ts";
import { Chips, FilterBar } from "../parts/Chips.tsx";
import { type Column, DataTable, Pager } from "../parts/DataTable.tsx";
import { TextField } from "../parts/fields.tsx";
import { useKeys } from "../parts/keys.ts";
import { PageHead } from "../parts/Page.tsx";
import { useResource } from "../parts/resource.ts";
import { EmptyState, Problem } from "../parts/states.tsx";
import { toast } from "../parts/toasts.tsx";
import { preferences } from "../preferences.ts";
import { setQuery } from "../router.ts";
import type { PageProps } from "../routes.ts";
import { clock, count, exact, instant, plural } from "../text/format.ts";

type Answer = Schema<"LogAnswer">;
const PAGE = 100;
const FOLLOW_MS = 2000;
/** Entries that a tab keeps; older ones are dropped and said so. */
const KEPT = 2000;

const COLUMNS: Column<LogEntry>[] = [
  {
    id: "at",
    title: "At",
    className: "mono",
    render: (entry) => (
      <time dateTime={entry.at} title={exact(instant(entry.at), preferences.value.zone)}>
        {clock(instant(entry.at), preferences.value.zone, true)}
      </time>
    ),
  },
  { id: "place", title: "Place", className: "mono", minor: true, render: entryKey },
  { id: "event", title: "Event", render: (entry) => <b>{entry.event}</b> },
  { id: "subject", title: "About", render: (entry) => <Subject entry={entry} /> },
  { id: "data", title: "What", wide: true, render: (entry) => inShort(entry.data) },
  {
    id: "by",
    title: "By",
    className: "cut",
    render: (entry) => (
      <span title={`${entry.by.kind} ${entry.by.id}`}>
        <span class="muted">{entry.by.kind}</span> {entry.by.id}
      </span>
    ),
  },
];

export default function Log({ query }: PageProps) {
  const filter = logQuery(query);
  const before = query.get("before");
  return <Entries key={`${filter} ${before}`} filter={filter} before={before} />;
}

function Entries({ filter, before }: { filter: URLSearchParams; before: string | null }) {
  const asked = new URLSearchParams(filter);
  asked.set("limit", String(PAGE));
  if (before) asked.set("before", before);
  const first = useResource(`log ${asked}`, (signal) => get<Answer>("/api/log", { query: asked, signal }));
  const [older, setOlder] = useState<Answer[]>([]);
  const [newer, setNewer] = useState<LogEntry[]>([]);
  const [fresh, setFresh] = useState<LogEntry[]>([]);
  const [peeked, setPeeked] = useState<string | null>(null);
  const [isReading, setReading] = useState(false);
  const [place, setPlace] = useState("");
  const last = older.at(-1) ?? first.data;
  const rows = first.data
    ? [...newer, ...first.data.entries, ...older.flatMap((page) => page.entries)].slice(0, KEPT)
    : undefined;
  const isPast = before !== null || filter.has("until");
  useNewEntries(first.data?.nextAfter, filter, isPast, (entries) =>
    setFresh((had) => [...entries.toReversed(), ...had].slice(0, KEPT)),
  );
  const show = () => {
    setNewer((had) => [...fresh, ...had]);
    setFresh([]);
  };
  const readOn = async () => {
    if (!last?.nextBefore || isReading) return;
    setReading(true);
    try {
      const query = new URLSearchParams(asked);
      query.set("before", last.nextBefore);
      const page = await get<Answer>("/api/log", { query });
      setOlder((had) => [...had, page]);
    } catch (error) {
      toast((error as Error).message, "failed");
    }
    setReading(false);
  };
  const jump = () => {
    const to = placeOf(place);
    if (to) setQuery({ before: to });
    else toast("Give a place such as tasks:48812, or an instant such as 2026-11-29T02:00Z", "failed");
  };
  useKeys("Log", [
    { key: "n", label: "Show new entries", run: show },
    { key: "Escape", label: "Close the panel", run: () => setPeeked(null) },
    { key: ":", label: "Jump to a place", run: () => document.querySelector<HTMLElement>(".jump input")?.focus() },
  ]);
  const entry = rows?.find((each) => entryKey(each) === peeked);
  const isFull = (rows?.length ?? 0) >= KEPT;
  const expired = Object.entries(last?.expired ?? {});
  return (
    <>
      <PageHead title="Log" sub="Every change, in order: what happened, to what, and who did it.">
        <form
          class="jump"
          onSubmit={(event) => {
            event.preventDefault();
            jump();
          }}
        >
          <TextField
            label="Jump to a place or an instant"
            value={place}
            onChange={setPlace}
            placeholder="tasks:48812"
          />
          <button type="submit">Go</button>
        </form>
      </PageHead>
      <FilterBar keys={KEYS} placeholder="Filter: event:TaskFailed by actor:user:alice, about subject:server:gpu-3" />
      <Chips keys={[...KEYS, { name: "before", label: "before" }]} />
      {first.error && !first.data && <Problem error={first.error as ApiError} onRetry={first.reload} />}
      {fresh.length > 0 && (
        <button type="button" class="pill" onClick={show}>
          {fresh.length >= KEPT ? `${count(KEPT)}+` : count(fresh.length)} new <kbd>n</kbd>
        </button>
      )}
      {!first.error && (
        <div class={entry ? "with-peek" : ""}>
          <DataTable
            label="Entries"
            columns={COLUMNS}
            rows={rows}
            rowKey={entryKey}
            onOpen={(each) => setPeeked(entryKey(each))}
            onPeek={(each) => setPeeked(peeked === entryKey(each) ? null : entryKey(each))}
            empty={
              <EmptyState title={last?.more ? "None found so far" : "Nothing happened that matches"}>
                {last?.more && (
                  <p>{plural(searched(first.data, older), "message")} searched. Read on towards older ones.</p>
                )}
              </EmptyState>
            }
          />
          {entry && <Entry entry={entry} onClose={() => setPeeked(null)} />}
        </div>
      )}
      {last && (
        <Pager
          shown={plural(rows?.length ?? 0, "entry", "entries")}
          asOf={
            isFull
              ? `the newest ${count(KEPT)} are kept here; jump to an older place to read on`
              : `${plural(searched(first.data, older), "message")} searched`
          }
          onFirst={before ? () => setQuery({ before: undefined }) : null}
        >
          {last.nextBefore && !isFull && (
            <button type="button" disabled={isReading} onClick={() => void readOn()}>
              Older
            </button>
          )}
          {!last.nextBefore && <span class="muted">The beginning of the log.</span>}
          {expired.length > 0 && (
            <span class="muted">
              Past the retention: {expired.map(([log, sequence]) => `${log} before ${sequence}`).join(", ")}.
            </span>
          )}
        </Pager>
      )}
    </>
  );
}

const searched = (first: Answer | undefined, older: Answer[]): number =>
  (first?.searched ?? 0) + older.reduce((sum, page) => sum + page.searched, 0);

/** Ask for what comes after the newest entry, every two seconds while the tab is visible and live. */
function useNewEntries(
  after: string | undefined,
  filter: URLSearchParams,
  isPast: boolean,
  onEntries: (entries: LogEntry[]) => void,
): void {
  const position = useRef<string | undefined>(undefined);
  const take = useRef(onEntries);
  take.current = onEntries;
  position.current ??= after;
  const isReady = Boolean(after) && !isPast;
  const found = useResource(
    `newer ${filter} ${isReady}`,
    async (signal) => {
      if (!isReady || !position.current) return null;
      const query = new URLSearchParams(filter);
      query.set("after", position.current);
      query.set("limit", String(PAGE));
      const page = await get<Answer>("/api/log", { query, signal, noted: false });
      position.current = page.nextAfter;
      return page;
    },
    { every: isReady ? FOLLOW_MS : 0 },
  );
  const page = found.data;
  useEffect(() => {
    if (page?.entries.length) take.current(page.entries);
  }, [page]);
}
