// Images, audio, video and addresses within a JSON text. Content decides, not names: base64 is known by its first bytes.

import { decoded, type JsonText, KEY, PUNCTUATION, pathOf, STRING, tokenText } from "./json.ts";

export type MediaKind = "image" | "audio" | "video" | "link";

export interface Media {
  token: number;
  path: string;
  kind: MediaKind;
  mediaType: string;
  /** Base64 without a prefix, or the address. */
  content: string;
  /** Size of what the base64 stands for; 0 for a link. */
  bytes: number;
}

/** Characters of base64 that are shown in place: 2 MB of bytes. */
export const LONGEST_IN_PLACE = Math.ceil((2 * 1024 * 1024 * 4) / 3);
const MOST_MEDIA = 50;
const SHORTEST_BASE64 = 40;

/** The first bytes of each format. SVG is not among them: it is text, and shown as such. */
const BEGINNINGS: [RegExp, MediaKind, string][] = [
  [/^\x89PNG\r\n\x1a\n/, "image", "image/png"],
  [/^\xff\xd8\xff/, "image", "image/jpeg"],
  [/^GIF8[79]a/, "image", "image/gif"],
  [/^RIFF[\s\S]{4}WEBP/, "image", "image/webp"],
  [/^[\s\S]{4}ftypavi[fs]/, "image", "image/avif"],
  [/^RIFF[\s\S]{4}WAVE/, "audio", "audio/wav"],
  [/^(?:ID3|\xff[\xfb\xf3\xf2])/, "audio", "audio/mpeg"],
  [/^OggS/, "audio", "audio/ogg"],
  [/^fLaC/, "audio", "audio/flac"],
  [/^[\s\S]{4}ftyp/, "video", "video/mp4"],
  [/^\x1a\x45\xdf\xa3/, "video", "video/webm"],
];
const SHOWN_TYPES = /^(image\/(?:png|jpeg|gif|webp|avif|bmp)|audio\/[\w.+-]+|video\/[\w.+-]+)$/;
const DATA_URL = /^data:([\w.+-]+\/[\w.+-]+);base64,/;
const BASE64 = /^[A-Za-z0-9+/]+={0,2}$/;

export function mediaIn(json: JsonText): Media[] {
  const found: Media[] = [];
  for (let token = 0; token < json.tokens && found.length < MOST_MEDIA; token += 1) {
    if (json.kinds[token] !== STRING) continue;
    const media = mediaOf(json, token);
    if (media !== null) found.push(media);
  }
  return found;
}

function mediaOf(json: JsonText, token: number): Media | null {
  const start = (json.starts[token] ?? 0) + 1;
  const end = (json.ends[token] ?? 0) - 1;
  if (end - start < 8 || end - start > LONGEST_IN_PLACE + 64) return null;
  if (json.text.charCodeAt(end) !== 34) return null;
  const head = json.text.slice(start, start + 64);
  if (/^https?:(?:\/|\\\/)/.test(head) && end - start <= 2000) {
    return media(json, token, "link", "", decoded(tokenText(json, token)));
  }
  const prefix = DATA_URL.exec(head);
  const mediaType = prefix?.[1] ?? "";
  if (prefix !== null && SHOWN_TYPES.test(mediaType)) {
    const content = base64(json.text.slice(start + prefix[0].length, end));
    return content === null ? null : media(json, token, mediaType.split("/")[0] as MediaKind, mediaType, content);
  }
  const kind = beginning(head);
  if (kind === null || end - start < SHORTEST_BASE64) return null;
  const content = base64(json.text.slice(start, end));
  return content === null ? null : media(json, token, kind[0], kind[1], content);
}

function beginning(head: string): [MediaKind, string] | null {
  const first = head.replaceAll("\\/", "/").slice(0, 24);
  if (first.length < 24 || !BASE64.test(first)) return null;
  const bytes = atob(first);
  for (const [form, kind, mediaType] of BEGINNINGS) if (form.test(bytes)) return [kind, mediaType];
  return null;
}

/** The text without escaped slashes; null if it is no base64. */
function base64(text: string): string | null {
  const plain = text.includes("\\") ? text.replaceAll("\\/", "/") : text;
  return BASE64.test(plain) ? plain : null;
}

function media(json: JsonText, token: number, kind: MediaKind, mediaType: string, content: string): Media {
  const padding = content.endsWith("==") ? 2 : content.endsWith("=") ? 1 : 0;
  const bytes = kind === "link" ? 0 : Math.floor((content.length * 3) / 4) - padding;
  return { token, path: pathOf(json, token), kind, mediaType, content, bytes };
}

export interface FileRef {
  path: string;
  address: string;
  mediaType: string;
  bytes: number | null;
}

const FILE_ADDRESS =
  /^(?:https?:\/\/[^/]+)?(?:\/[^?#]*)?\/api\/task\/[^/]+\/result\/file(?:\/\d+)?(?:\?sequence=\d+)?$/;

/** The files of a result: objects with a `$ref` to a file of the service, as docs/backends.md has them. */
export function filesIn(json: JsonText): FileRef[] {
  const found: FileRef[] = [];
  for (let token = 0; token < json.tokens && found.length < MOST_MEDIA; token += 1) {
    if (json.kinds[token] !== KEY || tokenText(json, token) !== '"$ref"') continue;
    const address = decoded(tokenText(json, token + 2));
    if (!FILE_ADDRESS.test(address)) continue;
    const near = neighbours(json, token);
    const bytes = Number(near.get('"bytes"') ?? Number.NaN);
    found.push({
      path: pathOf(json, token).replace(/(?:\.\$ref|\["\$ref"\])$/, ""),
      address,
      mediaType: decoded(near.get('"mediaType"') ?? '""'),
      bytes: Number.isFinite(bytes) ? bytes : null,
    });
  }
  return found;
}

/** The scalar members of the object that a key is in, from this key on. */
function neighbours(json: JsonText, token: number): Map<string, string> {
  const members = new Map<string, string>();
  for (let at = token; at + 2 < json.tokens; at += 1) {
    if (json.kinds[at] === KEY && json.kinds[at + 2] !== PUNCTUATION) {
      members.set(tokenText(json, at), tokenText(json, at + 2));
    }
    if (tokenText(json, at) === "}") break;
  }
  return members;
}
