/** One entry of the log in full: its fields, what caused it, and the way to what is around it. */
import type { Schema } from "../api/types.ts";
import { CopyButton } from "../parts/CopyButton.tsx";
import { Fact, Facts } from "../parts/Facts.tsx";
import { Icon } from "../parts/Icon.tsx";
import { Exact } from "../parts/time.tsx";
import { href } from "../router.ts";
import { bytes, instant, shortId } from "../text/format.ts";
import { subjectRoute } from "./filters.ts";

export type LogEntry = Schema<"LogEntryInfo">;
const AROUND_MS = 30_000;

export const entryKey = (entry: Pick<LogEntry, "log" | "sequence">): string => `${entry.log}:${entry.sequence}`;

export function Subject({ entry }: { entry: LogEntry }) {
  const route = subjectRoute(entry.subject.kind, entry.subject.id);
  const name = entry.subject.kind === "task" ? shortId(entry.subject.id) : entry.subject.id;
  return (
    <span class="cut-id" title={entry.subject.id}>
      <span class="muted">{entry.subject.kind}</span> {route ? <a href={route}>{name}</a> : name}
    </span>
  );
}

export function Entry({ entry, onClose }: { entry: LogEntry; onClose: () => void }) {
  const at = instant(entry.at);
  const around = {
    since: new Date(at - AROUND_MS).toISOString(),
    until: new Date(at + AROUND_MS).toISOString(),
  };
  const text = JSON.stringify(entry.data, null, 2);
  const sizes = Object.entries(entry.sizes);
  return (
    <aside class="card peek" aria-label="Entry">
      <div class="peek-head">
        <h2>{entry.event}</h2>
        <button type="button" class="quiet small" aria-label="Close" onClick={onClose}>
          <Icon name="x" size={14} />
        </button>
      </div>
      <Facts>
        <Fact name="at">
          <Exact at={entry.at} />
        </Fact>
        <Fact name="place">
          <code>{entryKey(entry)}</code> <CopyButton text={entryKey(entry)} label="Copy the place" />
        </Fact>
        <Fact name="about">
          <Subject entry={entry} />
        </Fact>
        <Fact name="by">
          {entry.by.kind} {entry.by.id}
          {entry.by.key && (
            <>
              {" "}
              with the key <code>{entry.by.key}</code>
            </>
          )}
        </Fact>
        {entry.cause && (
          <Fact name="cause">
            <code class="wrap">{entry.cause}</code> <CopyButton text={entry.cause} label="Copy the cause" />
          </Fact>
        )}
      </Facts>
      <p class="links">
        <a href={href("/log", {}, around)}>30 s around it</a>
        <a href={href("/log", {}, { subject: `${entry.subject.kind}:${entry.subject.id}` })}>all about it</a>
        <a href={href("/log", {}, { actor: `${entry.by.kind}:${entry.by.id}` })}>
          all by {entry.by.id || entry.by.kind}
        </a>
      </p>
      <pre class="pre mono answer">{text}</pre>
      {sizes.length > 0 && (
        <p class="muted meta">Left out: {sizes.map(([name, size]) => `${name} ${bytes(size)}`).join(", ")}.</p>
      )}
    </aside>
  );
}
