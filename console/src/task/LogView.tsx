/** Output and log lines as they come. It follows the end unless one scrolls up; only the rows in view are in the page. */
import { useEffect, useLayoutEffect, useMemo, useRef, useState } from "preact/hooks";
import { FindField } from "../parts/FindField.tsx";
import { Icon } from "../parts/Icon.tsx";
import { useKeys } from "../parts/keys.ts";
import { count, plural } from "../text/format.ts";
import { findRows, type LogBuffer, type Row, type Style, windowOf } from "../text/log.ts";
import { save } from "./download.ts";
import { Safe } from "./Safe.tsx";

const ROW = 18;

interface Props {
  log: LogBuffer;
  version: number;
  name: string;
  isLive: boolean;
  onOlder: (() => Promise<void>) | null;
}

export function LogView({ log, version, name, isLive, onOlder }: Props) {
  const box = useRef<HTMLDivElement>(null);
  const [place, setPlace] = useState({ top: 0, height: 420 });
  const [following, setFollowing] = useState(true);
  const [seen, setSeen] = useState(0);
  const [query, setQuery] = useState("");
  const [at, setAt] = useState(-1);
  const rows = log.rows;
  const all = rows.length + log.dropped;
  const found = useMemo(() => findRows(rows, query), [query, version]);
  const [first, last] = windowOf(place.top, place.height, ROW, rows.length);

  useLayoutEffect(() => {
    if (!following || !box.current) return;
    box.current.scrollTop = box.current.scrollHeight;
    setSeen(all);
  }, [version, following]);
  useEffect(() => {
    const element = box.current;
    if (!element) return;
    const observer = new ResizeObserver(() => setPlace({ top: element.scrollTop, height: element.clientHeight }));
    observer.observe(element);
    return () => observer.disconnect();
  }, []);
  useKeys("Output", [{ key: "Shift+g", label: "The end of the output", run: () => setFollowing(true) }]);

  const show = (index: number) => {
    setAt(index);
    const row = found[index];
    if (row === undefined) return;
    setFollowing(false);
    box.current?.scrollTo({ top: Math.max(0, row * ROW - place.height / 2) });
  };
  return (
    <div class="log">
      <div class="viewer-bar">
        <FindField
          label="Find in the output"
          query={query}
          found={found.length}
          at={at}
          onQuery={(text) => {
            setQuery(text);
            setAt(-1);
          }}
          onGo={show}
        >
          {Math.max(0, at) + 1} of {count(found.length)} lines
        </FindField>
        <span class="grow" />
        <span class="muted meta number">{plural(all, "line")}</span>
        {onOlder && (
          <button type="button" class="quiet small" onClick={() => void onOlder()}>
            <Icon name="arrow-up" size={14} /> Older
          </button>
        )}
        <button
          type="button"
          class="quiet small"
          disabled={!rows.length}
          onClick={() => save(`${name}.log`, new Blob([log.text()], { type: "text/plain" }))}
        >
          <Icon name="download" size={14} /> Save
        </button>
      </div>
      {log.dropped > 0 && <p class="muted meta">{plural(log.dropped, "earlier line")} not kept here.</p>}
      <div class="log-frame">
        <div
          class="viewer log-box mono"
          ref={box}
          role="region"
          aria-label="Output and log"
          tabIndex={0}
          onScroll={(event) => {
            const element = event.currentTarget;
            setPlace({ top: element.scrollTop, height: element.clientHeight });
            const isAtEnd = element.scrollTop + element.clientHeight >= element.scrollHeight - ROW;
            if (isAtEnd) setSeen(all);
            setFollowing(isAtEnd);
          }}
        >
          <div class="viewer-space" style={{ height: `${rows.length * ROW}px` }}>
            <div class="viewer-rows" style={{ transform: `translateY(${first * ROW}px)` }}>
              {rows.slice(first, last).map((row, index) => (
                <RowView
                  key={first + index + log.dropped}
                  row={row}
                  version={version}
                  isFound={found[at] === first + index}
                />
              ))}
            </div>
          </div>
        </div>
        {!following && all > seen && (
          <button type="button" class="log-new primary small" onClick={() => setFollowing(true)}>
            <Icon name="arrow-down" size={14} /> {plural(all - seen, "new line")}
          </button>
        )}
      </div>
      {isLive && (
        <p class="muted meta log-live">
          <span class="live-dot" /> follows the task
        </p>
      )}
    </div>
  );
}

function RowView({ row, isFound }: { row: Row; version: number; isFound: boolean }) {
  return (
    <div class={`log-row log-${row.source} ${isFound ? "found" : ""}`}>
      {row.spans.map((span, index) => (
        <span key={index} class={classOf(span.style)}>
          <Safe text={span.text} />
        </span>
      ))}
    </div>
  );
}

function classOf(style: Style): string | undefined {
  const classes = [
    style.color >= 0 && `ink-${style.color}`,
    style.ground >= 0 && `ground-${style.ground}`,
    style.bold && "ink-bold",
    style.dim && "ink-dim",
    style.italic && "ink-italic",
    style.underline && "ink-underline",
  ].filter(Boolean);
  return classes.length ? classes.join(" ") : undefined;
}
