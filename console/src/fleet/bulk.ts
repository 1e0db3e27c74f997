/** Commands to many dead letters: what they would do, and the operation that does it. */
import { get, post } from "../api/client.ts";
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

export type Operation = Schema<"OperationSummary">;
const ENDED = new Set(["done", "stopped", "failed"]);
export const hasEnded = (operation: Operation): boolean => ENDED.has(operation.state);

/** Have the service carry it out: it goes on without this page. `key`: the same one starts nothing twice. */
export const start = (command: Command, target: Target, reason: string, key: string): Promise<Operation> =>
  post<Operation>(
    "/api/operations",
    { ...target, action: command, deadLetters: true, reason },
    { idempotencyKey: key },
  );

export const read = (id: string): Promise<Operation> =>
  get<Operation>(`/api/operations/${encodeURIComponent(id)}`, { noted: false });

export const stop = (id: string): Promise<Operation> =>
  post<Operation>(`/api/operations/${encodeURIComponent(id)}/stop`, {});
