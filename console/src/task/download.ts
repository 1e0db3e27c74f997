/** Files for the person at the page: fetched with the token in a header, then saved by the browser. */
import { request } from "../api/client.ts";

/** Save a file under a name. */
export function save(name: string, content: Blob): void {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(content);
  link.download = name.replace(/[^\w.~-]+/g, "_").slice(0, 120);
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
}

export async function download(path: string, name: string): Promise<void> {
  const response = await request("GET", path);
  save(name, await response.blob());
}

export interface Head {
  text: string;
  /** Bytes in all. */
  size: number;
  isWhole: boolean;
}

/** Read the first bytes of a body of the API. */
export async function readHead(path: string, bytes: number, signal?: AbortSignal): Promise<Head> {
  const response = await request("GET", path, { headers: { Range: `bytes=0-${bytes - 1}` }, signal });
  const [, size] = /\/(\d+)$/.exec(response.headers.get("Content-Range") ?? "") ?? [];
  const body = new Uint8Array(await response.arrayBuffer());
  const all = size === undefined ? body.length : Number(size);
  const isWhole = body.length >= all;
  // A character cut at the end is left out.
  const text = new TextDecoder().decode(body, { stream: !isWhole });
  return { text, size: all, isWhole };
}
