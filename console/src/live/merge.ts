/**
 * A list that stays still while it is read: rows change in place, new ones are counted, and a row that no longer matches
 * stays, dimmed, until the reader asks for the list anew.
 */

export interface Still<Row> {
  rows: Row[];
  /** Keys of rows that match no more. */
  gone: ReadonlySet<string>;
  /** Keys of rows that match and are not shown. */
  fresh: ReadonlySet<string>;
}

/** More are not counted. */
export const MOST_FRESH = 1000;

/** Start a list from its first answer. */
export function still<Row>(rows: Row[]): Still<Row> {
  return { rows, gone: new Set(), fresh: new Set() };
}

/**
 * Take a later answer into the list. `limit`: rows of a page; a full answer says nothing about rows behind its last one.
 * `before(a, b)`: true if row a comes before b in the order of the list.
 */
export function merge<Row>(
  shown: Still<Row>,
  answer: Row[],
  keyOf: (row: Row) => string,
  limit: number,
  before: (a: Row, b: Row) => boolean,
): Still<Row> {
  const found = new Map(answer.map((row) => [keyOf(row), row]));
  const last = answer.at(-1);
  const isFull = answer.length >= limit && last !== undefined;
  const gone = new Set<string>();
  let changed = false;
  const rows = shown.rows.map((row) => {
    const key = keyOf(row);
    const newer = found.get(key);
    if (newer !== undefined) {
      if (same(row, newer)) return row;
      changed = true;
      return newer;
    }
    // Behind the end of a full page: it may match still.
    if (!(isFull && before(last, row))) gone.add(key);
    return row;
  });
  const had = new Set(rows.map(keyOf));
  const fresh = new Set(answer.map(keyOf).filter((key) => !had.has(key)));
  if (!changed && sameSet(gone, shown.gone) && sameSet(fresh, shown.fresh)) return shown;
  return { rows: changed ? rows : shown.rows, gone, fresh };
}

/**
 * Take rows that changed into the list: `rows` match, the keys in `left` do not. `isFirst`: the list is a first page, so
 * that a row which is not shown is a new one.
 */
export function apply<Row>(
  shown: Still<Row>,
  rows: Row[],
  left: string[],
  keyOf: (row: Row) => string,
  isFirst: boolean,
): Still<Row> {
  const changed = new Map(rows.map((row) => [keyOf(row), row]));
  const had = new Set(shown.rows.map(keyOf));
  const gone = new Set(shown.gone);
  const fresh = new Set(shown.fresh);
  for (const key of left) {
    if (had.has(key)) gone.add(key);
    fresh.delete(key);
  }
  for (const key of changed.keys()) {
    gone.delete(key);
    if (isFirst && !had.has(key) && fresh.size < MOST_FRESH) fresh.add(key);
  }
  const next = shown.rows.some((row) => changed.has(keyOf(row)))
    ? shown.rows.map((row) => changed.get(keyOf(row)) ?? row)
    : shown.rows;
  if (next === shown.rows && sameSet(gone, shown.gone) && sameSet(fresh, shown.fresh)) return shown;
  return { rows: next, gone, fresh };
}

function same(a: unknown, b: unknown): boolean {
  const left = a as Record<string, unknown>;
  const right = b as Record<string, unknown>;
  return Object.keys(right).every((name) => left[name] === right[name]);
}

function sameSet(a: ReadonlySet<string>, b: ReadonlySet<string>): boolean {
  return a.size === b.size && [...a].every((each) => b.has(each));
}
