/** A payload or a result: the text as it was stored, its images, sounds and files, and the download. */
import { useEffect, useMemo, useState } from "preact/hooks";
import { type ApiError, request } from "../api/client.ts";
import { CopyButton, copyText } from "../parts/CopyButton.tsx";
import { Icon } from "../parts/Icon.tsx";
import { useResource } from "../parts/resource.ts";
import { Problem, Skeleton } from "../parts/states.tsx";
import { toast } from "../parts/toasts.tsx";
import { bytes } from "../text/format.ts";
import { readJson } from "../text/json.ts";
import { type FileRef, filesIn, type Media, mediaIn } from "../text/media.ts";
import { download, readHead, save } from "./download.ts";
import { JsonView } from "./JsonView.tsx";
import { Safe } from "./Safe.tsx";

const HEAD = 256 * 1024;
const MORE = 4 * 1024 * 1024;
const LONGEST_COPY = 8 * 1024 * 1024;
/** Files up to this size are shown without a click. */
const SHOWN_AT_ONCE = 2 * 1024 * 1024;
const LARGEST_SHOWN = 64 * 1024 * 1024;

/** `version`: changes when the body may have changed. */
export function BodyView({
  path,
  name,
  label,
  version,
}: {
  path: string;
  name: string;
  label: string;
  version: string | number;
}) {
  const [wanted, setWanted] = useState(HEAD);
  const body = useResource(`${path} ${version} ${wanted}`, (signal) => readHead(path, wanted, signal));
  const { data } = body;
  const json = useMemo(() => (data ? readJson(data.text, data.isWhole) : null), [data]);
  const media = useMemo(() => (json ? mediaIn(json) : []), [json]);
  const files = useMemo(() => (json ? filesIn(json) : []), [json]);
  if (body.error && !data) return <Problem error={body.error} onRetry={body.reload} />;
  if (!data || !json) return <Skeleton rows={6} label={`Loading: ${label}`} />;
  const copyAll = async () => {
    const text = data.isWhole ? data.text : await (await request("GET", path)).text();
    toast((await copyText(text)) ? "Copied as it is stored." : "The browser does not allow copying.", "note");
  };
  return (
    <div class="body-view">
      <div class="body-bar">
        <span class="muted meta number">
          {data.isWhole ? bytes(data.size) : `The first ${bytes(Math.min(wanted, data.size))} of ${bytes(data.size)}.`}
        </span>
        {!data.isWhole && wanted < MORE && (
          <button type="button" class="small" onClick={() => setWanted(MORE)}>
            Show {data.size <= MORE ? "all" : bytes(MORE)}
          </button>
        )}
        <span class="grow" />
        <button type="button" class="quiet small" disabled={data.size > LONGEST_COPY} onClick={() => void copyAll()}>
          <Icon name="copy" size={14} /> Copy
        </button>
        <button
          type="button"
          class="quiet small"
          onClick={() => download(path, `${name}.json`).catch((error: Error) => toast(error.message, "failed"))}
        >
          <Icon name="download" size={14} /> Download
        </button>
      </div>
      {json.malformed && <p class="muted meta">This is not valid JSON. It is shown as it is stored.</p>}
      {json.more && <p class="muted meta">The text goes on: only its beginning is laid out.</p>}
      <MediaList media={media} files={files} name={name} />
      <JsonView key={`${version} ${wanted}`} json={json} label={label} />
    </div>
  );
}

export function MediaList({ media, files, name }: { media: Media[]; files: FileRef[]; name: string }) {
  const shown = media.filter((each) => each.kind !== "link");
  const links = media.filter((each) => each.kind === "link").slice(0, 8);
  if (!shown.length && !files.length && !links.length) return null;
  return (
    <div class="media">
      {shown.map((each) => (
        <figure key={each.token}>
          <Shown kind={each.kind} source={`data:${each.mediaType};base64,${each.content}`} path={each.path} />
          <figcaption class="meta">
            <code>{each.path}</code>{" "}
            <span class="muted">
              {each.mediaType}, {bytes(each.bytes)}
            </span>
            <button
              type="button"
              class="quiet small"
              aria-label={`Save ${each.path}`}
              onClick={() => save(fileName(name, each.path, each.mediaType), decode(each))}
            >
              <Icon name="download" size={14} />
            </button>
          </figcaption>
        </figure>
      ))}
      {files.map((file) => (
        <FileView key={file.address} file={file} name={name} />
      ))}
      {links.length > 0 && (
        <ul class="media-links meta">
          {links.map((each) => (
            <li key={each.token}>
              <code>{each.path}</code>{" "}
              <a href={each.content} target="_blank" rel="noreferrer noopener">
                <Safe text={each.content} /> <Icon name="external-link" size={12} />
              </a>{" "}
              <CopyButton text={each.content} label="Copy the address" />
            </li>
          ))}
        </ul>
      )}
    </div>
  );
}

function Shown({ kind, source, path }: { kind: string; source: string; path: string }) {
  if (kind === "image") return <img src={source} alt={path} />;
  if (kind === "audio") {
    // biome-ignore lint/a11y/useMediaCaption: it comes without any
    return <audio controls preload="metadata" src={source} aria-label={`The sound at ${path}`} />;
  }
  // biome-ignore lint/a11y/useMediaCaption: it comes without any
  return <video controls preload="metadata" src={source} aria-label={`The video at ${path}`} />;
}

const PLAYED = /^(?:image\/(?:png|jpeg|gif|webp|avif|bmp)|audio\/[\w.+-]+|video\/[\w.+-]+)$/;

/** A file of a result. It comes from the API, with the token in a header. */
function FileView({ file, name }: { file: FileRef; name: string }) {
  const [source, setSource] = useState<string | null>(null);
  const [error, setError] = useState<ApiError | Error | null>(null);
  const path = file.address.replace(/^.*?(?=\/api\/task\/)/, "");
  const kind = PLAYED.test(file.mediaType) ? (file.mediaType.split("/")[0] ?? "") : "";
  const size = file.bytes ?? Number.POSITIVE_INFINITY;
  const show = async () => {
    try {
      const response = await request("GET", path);
      const content = await response.blob();
      setSource(URL.createObjectURL(new Blob([content], { type: file.mediaType })));
    } catch (problem) {
      setError(problem as Error);
    }
  };
  useEffect(() => {
    if (kind && size <= SHOWN_AT_ONCE) void show();
  }, [path]);
  useEffect(() => () => (source ? URL.revokeObjectURL(source) : undefined), [source]);
  return (
    <figure>
      {source && <Shown kind={kind} source={source} path={file.path} />}
      {error && <Problem error={error} />}
      <figcaption class="meta">
        <code>{file.path}</code>{" "}
        <span class="muted">
          <Safe text={file.mediaType || "file"} />
          {file.bytes !== null && `, ${bytes(file.bytes)}`}
        </span>
        {kind && !source && size > SHOWN_AT_ONCE && size <= LARGEST_SHOWN && (
          <button type="button" class="small" onClick={() => void show()}>
            Show
          </button>
        )}
        <button
          type="button"
          class="quiet small"
          onClick={() =>
            download(path, fileName(name, file.path, file.mediaType)).catch((problem: Error) => setError(problem))
          }
        >
          <Icon name="download" size={14} /> Save
        </button>
      </figcaption>
    </figure>
  );
}

function fileName(name: string, path: string, mediaType: string): string {
  const ending = (mediaType.split("/")[1] ?? "bin").replace(/[^a-z0-9]+/gi, "").slice(0, 8) || "bin";
  return `${name}${path.replace(/^\$/, "").replace(/[^\w]+/g, "-")}.${ending}`;
}

function decode(media: Media): Blob {
  const binary = atob(media.content);
  const content = new Uint8Array(binary.length);
  for (let at = 0; at < binary.length; at += 1) content[at] = binary.charCodeAt(at);
  return new Blob([content], { type: media.mediaType });
}
