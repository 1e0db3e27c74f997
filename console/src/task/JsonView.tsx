/** JSON as it was stored, in lines that fold. Only the lines in view are in the page. */
import { useEffect, useMemo, useRef, useState } from "preact/hooks";
import { CopyButton } from "../parts/CopyButton.tsx";
import { Dialog } from "../parts/Dialog.tsx";
import { FindField } from "../parts/FindField.tsx";
import { Icon } from "../parts/Icon.tsx";
import { plural } from "../text/format.ts";
import {
  around,
  BAD,
  decoded,
  deeperThan,
  findTokens,
  type JsonText,
  KEY,
  lineOf,
  NUMBER,
  PUNCTUATION,
  pathOf,
  STRING,
  tokenText,
  valueAt,
  visibleLines,
} from "../text/json.ts";
import { windowOf } from "../text/log.ts";
import { beginning } from "../text/visible.ts";
import { Safe } from "./Safe.tsx";

const ROW = 20;
/** Characters of a string in its line; the rest is shown on request. */
const LONGEST_SHOWN = 240;
const LONGEST_IN_DIALOG = 1_000_000;
/** A text with no more lines is seen as a whole: it needs no search. */
const SHORT = 24;
/** A text with more lines starts folded to its outline. */
const UNFOLDED = 2_000;
const CLASSES = ["", "json-key", "json-string", "json-number", "json-word", "json-bad"];

export function JsonView({ json, label }: { json: JsonText; label: string }) {
  const [folded, setFolded] = useState<ReadonlySet<number>>(() =>
    json.lines.length > UNFOLDED ? deeperThan(json, 2) : new Set(),
  );
  const [whole, setWhole] = useState<number | null>(null);
  const [query, setQuery] = useState("");
  const [at, setAt] = useState(0);
  const box = useRef<HTMLDivElement>(null);
  const [place, setPlace] = useState({ top: 0, height: 480 });
  const seen = useMemo(() => visibleLines(json, folded), [json, folded]);
  const found = useMemo(() => findTokens(json, query), [json, query]);
  const current = found[at];
  const [first, last] = windowOf(place.top, place.height, ROW, seen.length);

  useEffect(() => {
    const element = box.current;
    if (!element) return;
    const measure = () => setPlace({ top: element.scrollTop, height: element.clientHeight });
    const observer = new ResizeObserver(measure);
    observer.observe(element);
    return () => observer.disconnect();
  }, []);

  const toggle = (line: number) => {
    const next = new Set(folded);
    if (!next.delete(line)) next.add(line);
    setFolded(next);
  };
  const show = (index: number) => {
    const token = found[index];
    setAt(index);
    if (token === undefined) return;
    const line = lineOf(json, token);
    const next = new Set(folded);
    for (const each of around(json, line)) next.delete(each);
    setFolded(next);
    const row = visibleLines(json, next).indexOf(line);
    requestAnimationFrame(() => box.current?.scrollTo({ top: Math.max(0, row * ROW - place.height / 2) }));
  };
  return (
    <div class="json">
      {json.lines.length > SHORT && (
        <div class="viewer-bar">
          <FindField
            label={`Find in ${label}`}
            query={query}
            found={found.length}
            at={at}
            onQuery={(text) => {
              setQuery(text);
              setAt(-1);
            }}
            onGo={show}
          >
            {at + 1} of {found.length}
          </FindField>
          <span class="grow" />
          <button type="button" class="quiet small" onClick={() => setFolded(deeperThan(json, 1))}>
            Fold
          </button>
          <button type="button" class="quiet small" onClick={() => setFolded(new Set())}>
            Unfold
          </button>
        </div>
      )}
      <div
        class="viewer mono"
        ref={box}
        role="region"
        aria-label={label}
        tabIndex={0}
        onScroll={(event) => setPlace({ top: event.currentTarget.scrollTop, height: event.currentTarget.clientHeight })}
      >
        <div class="viewer-space" style={{ height: `${seen.length * ROW}px` }}>
          <div class="viewer-rows" style={{ transform: `translateY(${first * ROW}px)` }}>
            {seen.slice(first, last).map((line) => (
              <LineView
                key={line}
                json={json}
                at={line}
                isFolded={folded.has(line)}
                current={current}
                onToggle={() => toggle(line)}
                onWhole={setWhole}
              />
            ))}
          </div>
        </div>
      </div>
      {whole !== null && <StringDialog json={json} token={whole} onClose={() => setWhole(null)} />}
    </div>
  );
}

interface LineProps {
  json: JsonText;
  at: number;
  isFolded: boolean;
  current: number | undefined;
  onToggle: () => void;
  onWhole: (token: number) => void;
}

function LineView({ json, at, isFolded, current, onToggle, onWhole }: LineProps) {
  const line = json.lines[at];
  if (!line) return null;
  const tokens = [];
  for (let token = line.from; token < line.to; token += 1) {
    tokens.push(<TokenView key={token} json={json} token={token} isFound={token === current} onWhole={onWhole} />);
  }
  const closing = isFolded ? json.lines[line.closes] : undefined;
  if (closing) {
    tokens.push(
      <span key="preview" class="json-preview">
        <Safe text={previewOf(json, line.to, closing.from)} />
      </span>,
    );
    tokens.push(
      <button key="folded" type="button" class="json-folded" onClick={onToggle}>
        {plural(line.size, "element")}
      </button>,
    );
    for (let token = closing.from; token < closing.to; token += 1) {
      tokens.push(<TokenView key={token} json={json} token={token} isFound={false} onWhole={onWhole} />);
    }
  }
  return (
    <div class="json-line">
      {line.closes >= 0 ? (
        <button
          type="button"
          class="json-fold"
          aria-expanded={!isFolded}
          aria-label={`${pathOf(json, line.to - 1)}, ${plural(line.size, "element")}`}
          onClick={onToggle}
        >
          <Icon name={isFolded ? "chevron-right" : "chevron-down"} size={12} />
        </button>
      ) : (
        <span class="json-fold" />
      )}
      <span class="json-text" style={{ paddingLeft: `${line.depth * 2}ch` }}>
        {tokens}
      </span>
      <span class="json-copy">
        <CopyButton text={valueAt(json, at)} label="Copy this value" />
      </span>
    </div>
  );
}

const PREVIEW = 64;

/** The beginning of what is folded, in one line. */
function previewOf(json: JsonText, from: number, to: number): string {
  let text = "";
  for (let token = from; token < to && text.length < PREVIEW; token += 1) {
    const start = json.starts[token] ?? 0;
    const piece = json.text.slice(start, Math.min(json.ends[token] ?? 0, start + PREVIEW));
    text += piece === ":" || piece === "," ? `${piece} ` : piece;
  }
  return text.length > PREVIEW ? `${beginning(text, PREVIEW)}…` : text;
}

function TokenView({
  json,
  token,
  isFound,
  onWhole,
}: {
  json: JsonText;
  token: number;
  isFound: boolean;
  onWhole: (token: number) => void;
}) {
  const kind = json.kinds[token] ?? BAD;
  const length = (json.ends[token] ?? 0) - (json.starts[token] ?? 0);
  const text =
    length > LONGEST_SHOWN
      ? beginning(json.text.slice(json.starts[token], (json.starts[token] ?? 0) + LONGEST_SHOWN), LONGEST_SHOWN)
      : tokenText(json, token);
  const space = kind === PUNCTUATION && (text === ":" || text === ",") ? " " : "";
  if (kind === PUNCTUATION) return `${text}${space}`;
  return (
    <span class={`${CLASSES[kind]} ${isFound ? "found" : ""}`}>
      <Safe text={text} />
      {length > LONGEST_SHOWN && (
        <button type="button" class="json-folded" onClick={() => onWhole(token)}>
          … {plural(length, "character")}
        </button>
      )}
    </span>
  );
}

/** A long string, as the text that it stands for. */
function StringDialog({ json, token, onClose }: { json: JsonText; token: number; onClose: () => void }) {
  const kind = json.kinds[token];
  const literal = tokenText(json, token);
  const text = kind === STRING || kind === KEY ? decoded(literal) : literal;
  const isNumber = kind === NUMBER;
  return (
    <Dialog
      title={pathOf(json, token)}
      wide
      onClose={onClose}
      actions={[
        <CopyButton key="copy" text={text} word="Copy the text" />,
        <button key="close" type="submit" class="primary">
          Close
        </button>,
      ]}
      onSubmit={onClose}
    >
      <pre class={`long-text ${isNumber ? "json-number" : ""}`} tabIndex={0}>
        <Safe text={beginning(text, LONGEST_IN_DIALOG)} />
      </pre>
      {text.length > LONGEST_IN_DIALOG && (
        <p class="muted">The first {plural(LONGEST_IN_DIALOG, "character")} are shown.</p>
      )}
    </Dialog>
  );
}
