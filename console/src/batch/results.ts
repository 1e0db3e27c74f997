/** The results of a batch as lines of JSON: each task with its result as it is stored, page by page. */
import { request } from "../api/client.ts";
import { save } from "../task/download.ts";
import { split } from "./ndjson.ts";

const PAGE = 100;

/** Save all results; `onProgress` hears how many tasks are read. Returns how many there were. */
export async function saveResults(
  id: string,
  statuses: string,
  onProgress: (tasks: number) => void,
  signal: AbortSignal,
): Promise<number> {
  const path = `/api/batches/${encodeURIComponent(id)}/tasks`;
  const parts: Blob[] = [];
  let tasks = 0;
  let cursor = "";
  for (;;) {
    const query = { results: true, limit: PAGE, status: statuses, cursor };
    const response = await request("GET", path, { query, signal, noted: cursor === "" });
    const { elements: lines, rest } = split(await response.text(), "tasks");
    // A Blob may be on disk: the page keeps no text.
    parts.push(new Blob(lines.map((line) => `${line}\n`)));
    tasks += lines.length;
    onProgress(tasks);
    cursor = (JSON.parse(rest) as { nextCursor: string | null }).nextCursor ?? "";
    if (!cursor) break;
  }
  save(`${id}.ndjson`, new Blob(parts, { type: "application/x-ndjson" }));
  return tasks;
}
