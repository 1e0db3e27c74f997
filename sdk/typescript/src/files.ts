/** Files of payloads and results. */
import type { components } from "./api.ts";
import { type Http, newKey, type Query, segment } from "./http.ts";
import { type List, listed } from "./pages.ts";
import type { CallOptions, CreateOptions, ListOptions } from "./resources.ts";

export type FileSummary = components["schemas"]["FileSummary"];
export type FileLink = components["schemas"]["FileLink"];

export type FileContent = Blob | ArrayBuffer | Uint8Array<ArrayBuffer> | string | ReadableStream<Uint8Array>;

export interface UploadOptions extends CreateOptions {
  /** Default: that of a `File`. */
  name?: string;
  /** The media type; default: that of a `Blob`, else by the name. */
  type?: string;
  /** Lists filter by it. */
  purpose?: string;
  /** Seconds, or text as in `90s`, `5m`, `2d`: the file is deleted then. */
  expiresIn?: number | string;
  /** Hex; other bytes are refused. */
  sha256?: string;
}

/** An upload may take two hours. */
const UPLOAD_MS = 7_200_000;

export class Files {
  private readonly http: Http;

  constructor(http: Http) {
    this.http = http;
  }

  /** Store a file. A stream is sent as it comes, and once; anything else is sent again after a cut, and stored once. */
  upload(content: FileContent, options: UploadOptions = {}): Promise<FileSummary> {
    const { signal, idempotencyKey = newKey(), ...query } = options;
    const isStream = typeof ReadableStream !== "undefined" && content instanceof ReadableStream;
    if (query.name === undefined && typeof File !== "undefined" && content instanceof File) query.name = content.name;
    const own = typeof Blob !== "undefined" && content instanceof Blob ? content.type : "";
    const type =
      query.type || own || (typeof content === "string" ? "text/plain; charset=utf-8" : "application/octet-stream");
    return this.http.json("POST", "/api/files", {
      query: query as Query,
      body: content,
      headers: { "Content-Type": type },
      signal,
      idempotencyKey,
      isRepeatable: !isStream,
      timeoutMs: UPLOAD_MS,
    });
  }

  /** Return what is known of a file. */
  get(id: string, options: CallOptions = {}): Promise<FileSummary> {
    return this.http.json("GET", `/api/files/${segment(id)}/info`, options);
  }

  /** Return a response with the bytes, not read yet. `range`: as in `bytes=0-99`. */
  download(id: string, options: CallOptions & { range?: string } = {}): Promise<Response> {
    const { range, signal } = options;
    const headers = { Accept: "*/*", ...(range ? { Range: range } : {}) };
    return this.http.response("GET", `/api/files/${segment(id)}`, { signal, headers });
  }

  /** Return the bytes. */
  async bytes(id: string, options: CallOptions = {}): Promise<Uint8Array> {
    return new Uint8Array(await (await this.download(id, options)).arrayBuffer());
  }

  /** Make a URL that needs no token, for a player or a link; `seconds`: at most a week, an hour by default. */
  link(id: string, seconds?: number, options: CallOptions = {}): Promise<FileLink> {
    const json = seconds === undefined ? {} : { expiresIn: seconds };
    return this.http.json("POST", `/api/files/${segment(id)}/links`, { ...options, json, isRepeatable: true });
  }

  list(options: ListOptions & { purpose?: string } = {}): List<FileSummary> {
    const { signal, ...query } = options;
    return listed(this.http, "/api/files", "files", query, signal);
  }

  async delete(id: string, options: CallOptions = {}): Promise<void> {
    await this.http.json("DELETE", `/api/files/${segment(id)}`, options);
  }
}
