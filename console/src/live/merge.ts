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

function same(a: unknown, b: unknown): boolean {
  const left = a as Record<string, unknown>;
  const right = b as Record<string, unknown>;
  return Object.keys(right).every((name) => left[name] === right[name]);
}

function sameSet(a: ReadonlySet<string>, b: ReadonlySet<string>): boolean {
  return a.size === b.size && [...a].every((each) => b.has(each));
}
