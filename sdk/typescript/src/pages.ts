/** Lists that come in pages: one page when awaited, all entries when iterated. */
import type { Http, Query } from "./http.ts";

export interface Page<T> {
  items: T[];
  /** Pass it as `cursor` for the next page; null: this is the last one. */
  nextCursor: string | null;
}

/** `await list` is the first page; `for await (const each of list)` is every entry, page by page. */
export class List<T> implements AsyncIterable<T>, PromiseLike<Page<T>> {
  private readonly read: (cursor: string | null) => Promise<Page<T>>;
  private readonly start: string | null;

  constructor(read: (cursor: string | null) => Promise<Page<T>>, start: string | null = null) {
    this.read = read;
    this.start = start;
  }

  // biome-ignore lint/suspicious/noThenProperty: awaiting a list gives its first page
  then<A = Page<T>, B = never>(
    onDone?: ((page: Page<T>) => A | PromiseLike<A>) | null,
    onError?: ((error: unknown) => B | PromiseLike<B>) | null,
  ): Promise<A | B> {
    return this.read(this.start).then(onDone, onError);
  }

  async *[Symbol.asyncIterator](): AsyncGenerator<T> {
    let cursor = this.start;
    do {
      const page: Page<T> = await this.read(cursor);
      yield* page.items;
      cursor = page.nextCursor;
    } while (cursor !== null);
  }

  /** Return the entries; no more than `most`. */
  async toArray(most = Number.POSITIVE_INFINITY): Promise<T[]> {
    const found: T[] = [];
    for await (const each of this) {
      if (found.length >= most) break;
      found.push(each);
    }
    return found;
  }
}

/** Return the list behind a path whose pages have their entries under `key`. */
export function listed<T>(http: Http, path: string, key: string, query: Query, signal?: AbortSignal): List<T> {
  const { cursor: start, ...rest } = query;
  return new List<T>(
    async (cursor) => {
      const page = await http.json<Record<string, unknown>>("GET", path, { query: { ...rest, cursor }, signal });
      return { items: page[key] as T[], nextCursor: (page.nextCursor as string | null) ?? null };
    },
    (start as string | null | undefined) ?? null,
  );
}
