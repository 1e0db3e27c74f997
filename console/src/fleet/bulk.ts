/** Commands to many dead letters: page by page, each page once, and no further when they are stopped. */
import { post } from "../api/client.ts";
import type { Schema } from "../api/types.ts";
import { NOTHING, type Outcome, plus } from "./dead.ts";

export type Command = "retry" | "discard";
export interface Target {
  /** Fields of the filter; an empty one matches all. */
  filter?: Record<string, string | string[]>;
  ids?: string[];
}

/** Pages of a dry run: beyond them the number is "at least". */
const PAGES_LOOKED = 10;

export interface Looked extends Outcome {
  /** True: there are more. */
  more: boolean;
}

async function page(command: Command, target: Target, more: Record<string, unknown>): Promise<Schema<"BulkAnswer">> {
  return post<Schema<"BulkAnswer">>(`/api/dead-letters/${command}`, { ...target, ...more });
}

/** Return what a command would do; nothing changes. */
export async function look(command: Command, target: Target): Promise<Looked> {
  let found: Outcome = NOTHING;
  let cursor: string | null = null;
  for (let pages = 0; pages < PAGES_LOOKED; pages += 1) {
    const answer: Schema<"BulkAnswer"> = await page(command, target, { dryRun: true, ...(cursor ? { cursor } : {}) });
    found = plus(found, answer);
    cursor = answer.nextCursor;
    if (!cursor) break;
  }
  return { ...found, more: cursor !== null };
}

/** Carry it out. `onPage` has the outcome so far, and returns false to stop after this page. */
export async function run(
  command: Command,
  target: Target,
  reason: string,
  onPage: (outcome: Outcome) => boolean,
): Promise<Outcome> {
  let found: Outcome = NOTHING;
  let cursor: string | null = null;
  do {
    const answer: Schema<"BulkAnswer"> = await page(command, target, { reason, ...(cursor ? { cursor } : {}) });
    found = plus(found, answer);
    cursor = answer.nextCursor;
  } while (onPage(found) && cursor);
  return found;
}
