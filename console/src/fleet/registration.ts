/** The registration of a server as a form: what it shows, what it sends, and what it read. */

/** Text of every field, so that a half-typed number stays as it was typed. */
export interface Draft {
  id: string;
  name: string;
  provider: string;
  /** A dialect, `auto`, `type` (the dialect of the task's type), `preset:NAME`, or `pull`. */
  program: string;
  predict: string;
  health: string;
  healthAuth: boolean;
  /** Statuses, separated by commas or spaces. */
  healthStatus: string;
  /** JSON: values by path. */
  healthJson: string;
  answers: Answers;
  types: string[];
  labels: string;
  maxConcurrent: string;
  weight: string;
  model: string;
  models: "none" | "discover" | "list";
  modelNames: string;
  overflowWaiting: string;
  overflowOldest: string;
  apiKey: string;
  /** Editing: the stored key is to be destroyed. */
  removesKey: boolean;
  authHeader: string;
  busyStatus: string;
  removal: "default" | "never" | "after";
  removeAfter: string;
  exchange: string;
}

export type Field = keyof Draft;
/** In the answer, or later: it may accept a task with 202 and report. */
export type Answers = "now" | "later" | "maybe";

export const EMPTY: Draft = {
  id: "",
  name: "",
  provider: "",
  program: "auto",
  predict: "",
  health: "",
  healthAuth: false,
  healthStatus: "",
  healthJson: "",
  answers: "now",
  types: [],
  labels: "",
  maxConcurrent: "10",
  weight: "1",
  model: "",
  models: "none",
  modelNames: "",
  overflowWaiting: "",
  overflowOldest: "",
  apiKey: "",
  removesKey: false,
  authHeader: "",
  busyStatus: "",
  removal: "default",
  removeAfter: "",
  exchange: "",
};

export const PRESET = "preset:";

/** The wire formats, in the order of the form, with what each is for. */
export const PROGRAMS: [value: string, title: string, about: string][] = [
  ["auto", "Find out", "A few GET requests, none of which calls a model, find out what it speaks."],
  [
    "taskstream",
    "Written for Taskstream",
    "A POST with the task; the answer is the result, a stream, or a 202 and reports later.",
  ],
  [
    "openai",
    "OpenAI's API",
    "vLLM, SGLang, llama.cpp, Ollama, LM Studio, litellm, TEI: the address of /v1, or of one endpoint below it.",
  ],
  ["oip", "Open Inference Protocol", "KServe, MLServer, Triton, OpenVINO: …/v2/models/{model}/infer."],
  ["cog", "Cog", "The address of /predictions."],
  ["bare", "Any HTTP server", "The payload is the body, the answer the result; `exchange` describes what differs."],
  ["type", "As the task's type says", "The dialect of the type, else Taskstream's own."],
  ["pull", "It fetches its tasks", "No address: workers ask for tasks, also from behind a firewall."],
];

const CALLED: Field[] = [
  "predict",
  "health",
  "apiKey",
  "authHeader",
  "busyStatus",
  "healthAuth",
  "healthStatus",
  "healthJson",
];

/** Return the dialect that a draft names, "" if it leaves it to presets, types or pullers. */
export function dialectOf(draft: Draft): string {
  return draft.program.startsWith(PRESET) || draft.program === "type" || draft.program === "pull" ? "" : draft.program;
}

/** Return true if a server of this program has the field. */
export function hasField(draft: Draft, field: Field): boolean {
  const { program } = draft;
  const isBare = program === "bare" || program.startsWith(PRESET);
  if (program === "pull" && CALLED.includes(field)) return false;
  switch (field) {
    case "answers":
      return !isBare && program !== "pull" && program !== "openai" && program !== "oip";
    case "model":
      return program === "oip" || program === "auto";
    case "models":
    case "modelNames":
      return true;
    case "exchange":
      return isBare;
    default:
      return true;
  }
}

/** Return true if such a server can list its models: else `discover` is refused. */
export function listsModels(draft: Draft): boolean {
  return draft.program === "openai" || draft.program === "auto";
}

const words = (text: string): string[] => text.split(/[\s,]+/).filter(Boolean);
const lines = (text: string): string[] =>
  text
    .split(/[\n,]+/)
    .map((each) => each.trim())
    .filter(Boolean);

/** Return the labels of a text with `name=value` in each line. */
export function labelsOf(text: string): Record<string, string> {
  const found: [string, string][] = [];
  for (const line of lines(text)) {
    const [name = "", value = ""] = line.split(/=(.*)/s);
    found.push([name.trim(), value.trim()]);
  }
  return Object.fromEntries(found);
}

/** Return a number as it is sent; text that is none goes as text, so that the API says what is wrong with it. */
const numberOf = (text: string): number | string => {
  const value = text.trim() === "" ? Number.NaN : Number(text);
  return Number.isNaN(value) ? text : value;
};

function jsonOf(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    return text;
  }
}

type Settings = Record<string, unknown>;

/** Return every setting of a draft under its name in the API, without the key. */
function settingsOf(draft: Draft): Settings {
  const has = (field: Field) => hasField(draft, field);
  const statuses = words(draft.healthStatus).map(numberOf);
  const expect: Settings = {};
  if (statuses.length) expect.status = statuses;
  if (draft.healthJson.trim()) expect.json = jsonOf(draft.healthJson);
  const overflow: Settings = {};
  if (draft.overflowWaiting.trim()) overflow.waiting = numberOf(draft.overflowWaiting);
  if (draft.overflowOldest.trim()) overflow.oldest = numberOf(draft.overflowOldest);
  const later = has("answers") && draft.answers !== "now";
  const models = draft.models === "discover" ? "discover" : draft.models === "list" ? lines(draft.modelNames) : null;
  const dialect = dialectOf(draft);
  const settings: Settings = {
    name: draft.name.trim() || draft.id.trim(),
    provider: draft.provider.trim() || "local",
    async: later,
    callback: later && draft.answers === "later",
    types: draft.types,
    maxConcurrent: numberOf(draft.maxConcurrent),
    weight: numberOf(draft.weight),
    labels: labelsOf(draft.labels),
    overflow: Object.keys(overflow).length ? overflow : null,
    busyStatus: has("busyStatus") && draft.busyStatus.trim() ? busyStatuses(draft.busyStatus) : null,
    authHeader: has("authHeader") && draft.authHeader.trim() ? draft.authHeader.trim() : null,
    healthAuth: has("healthAuth") && draft.healthAuth,
    healthExpect: has("healthStatus") && Object.keys(expect).length ? expect : null,
    dialect: dialect || null,
    model: has("model") && draft.model.trim() ? draft.model.trim() : null,
    models,
    exchange: has("exchange") && draft.exchange.trim() ? jsonOf(draft.exchange) : null,
  };
  if (draft.removal !== "default")
    settings.removeAfter = draft.removal === "never" ? null : numberOf(draft.removeAfter);
  return settings;
}

/** `none`: no status means busy. */
const busyStatuses = (text: string): unknown[] => (text.trim() === "none" ? [] : words(text).map(numberOf));

const DEFAULTS: Settings = {
  async: false,
  callback: false,
  types: [],
  maxConcurrent: 10,
  weight: 1,
  labels: {},
  overflow: null,
  busyStatus: null,
  authHeader: null,
  healthAuth: false,
  healthExpect: null,
  dialect: null,
  model: null,
  models: null,
  exchange: null,
};

const same = (one: unknown, other: unknown): boolean => JSON.stringify(one) === JSON.stringify(other);

/**
 * Return the body of `POST /api/servers`: what is at its default is left out.
 *
 * With a preset, what the draft has at its default is left to the preset.
 */
export function bodyOf(draft: Draft): Settings {
  const body: Settings = { id: draft.id.trim() };
  const settings = settingsOf(draft);
  for (const name of ["name", "provider"]) body[name] = settings[name];
  if (draft.program === "pull") body.mode = "pull";
  else if (draft.program.startsWith(PRESET)) body.preset = draft.program.slice(PRESET.length);
  else if (settings.dialect) body.dialect = settings.dialect;
  if (draft.program !== "pull") {
    const endpoints: Settings = { predict: draft.predict.trim() };
    if (draft.health.trim()) endpoints.health = draft.health.trim();
    body.endpoints = endpoints;
  }
  for (const [name, value] of Object.entries(settings))
    if (!(name in body) && name !== "dialect" && !(name in DEFAULTS && same(value, DEFAULTS[name]))) body[name] = value;
  if (hasField(draft, "apiKey") && draft.apiKey) body.apiKey = draft.apiKey;
  return body;
}

/** The settings of a server as the API returns them. */
export interface RegisteredServer {
  id: string;
  name: string;
  provider: string;
  mode: "push" | "pull";
  endpoints: Record<string, string | null>;
  async: boolean;
  callback: boolean;
  types: string[];
  maxConcurrent: number;
  weight: number;
  labels: Record<string, string>;
  overflow: { waiting?: number | null; oldest?: number | null } | null;
  busyStatus: number[];
  authHeader: string | null;
  healthAuth: boolean;
  healthExpect: { status?: number | number[]; json?: object } | null;
  removeAfter?: number | null;
  dialect: string | null;
  model: string | null;
  exchange: object | null;
  preset: string | null;
  models: "discover" | string[] | null;
}

/** What a dialect counts as busy unless a registration says otherwise. The API shows the effective list only. */
const USUALLY_BUSY: Record<string, number[]> = { cog: [409, 429, 503] };

/** Return the draft of a registered or removed server. Its key is not in it: the API never returns one. */
export function draftOf(server: RegisteredServer): Draft {
  const busy = USUALLY_BUSY[server.dialect ?? ""] ?? [429, 503];
  const expect = server.healthExpect;
  const status = expect?.status;
  return {
    ...EMPTY,
    id: server.id,
    name: server.name,
    provider: server.provider,
    program: server.mode === "pull" ? "pull" : (server.dialect ?? "type"),
    predict: server.endpoints.predict ?? "",
    health: server.endpoints.health ?? "",
    healthAuth: server.healthAuth,
    healthStatus: status === undefined ? "" : [status].flat().join(", "),
    healthJson: expect?.json ? JSON.stringify(expect.json) : "",
    answers: server.callback ? "later" : server.async ? "maybe" : "now",
    types: server.types,
    labels: Object.entries(server.labels)
      .map(([name, value]) => `${name}=${value}`)
      .join("\n"),
    maxConcurrent: String(server.maxConcurrent),
    weight: String(server.weight),
    model: server.model ?? "",
    models: server.models === "discover" ? "discover" : server.models ? "list" : "none",
    modelNames: Array.isArray(server.models) ? server.models.join("\n") : "",
    overflowWaiting: server.overflow?.waiting != null ? String(server.overflow.waiting) : "",
    overflowOldest: server.overflow?.oldest != null ? String(server.overflow.oldest) : "",
    authHeader: server.authHeader ?? "",
    busyStatus: same([...server.busyStatus].sort(), busy) ? "" : server.busyStatus.join(", ") || "none",
    removal: server.removeAfter === undefined ? "default" : server.removeAfter === null ? "never" : "after",
    removeAfter: server.removeAfter ? String(server.removeAfter) : "",
    exchange: server.exchange ? JSON.stringify(server.exchange, null, 2) : "",
  };
}

/**
 * Return the body of `PATCH /api/servers/{id}` that turns one draft into the other: only what differs.
 *
 * The stored key stays, unless another is typed or it is to be removed. An empty body: nothing differs.
 */
export function patchOf(before: Draft, after: Draft): Settings {
  const [from, to] = [settingsOf(before), settingsOf(after)];
  const patch: Settings = {};
  if ((before.program === "pull") !== (after.program === "pull"))
    patch.mode = after.program === "pull" ? "pull" : "push";
  if (after.program !== "pull") {
    const endpoints: Settings = {};
    if (before.predict.trim() !== after.predict.trim()) endpoints.predict = after.predict.trim();
    if (before.health.trim() !== after.health.trim()) endpoints.health = after.health.trim() || null;
    if (Object.keys(endpoints).length) patch.endpoints = endpoints;
  }
  for (const [name, value] of Object.entries(to)) if (!same(value, from[name])) patch[name] = value;
  if (after.program !== "pull") {
    if (after.removesKey) patch.apiKey = null;
    else if (after.apiKey) patch.apiKey = after.apiKey;
  }
  return patch;
}

/** Return the draft that a preset's example suggests, with what was typed already. */
export function fromPreset(draft: Draft, name: string, example: Record<string, unknown>): Draft {
  const endpoints = (example.endpoints ?? {}) as Record<string, string>;
  const text = (field: string) => (typeof example[field] === "string" ? (example[field] as string) : "");
  return {
    ...draft,
    program: PRESET + name,
    id: draft.id || text("id"),
    name: draft.name || text("name"),
    provider: draft.provider || text("provider"),
    predict: draft.predict || (endpoints.predict ?? ""),
    health: draft.health || (endpoints.health ?? ""),
    exchange: "",
  };
}

/** Return an id for a server at this address: its host without what every host has, and its port. */
export function suggestedId(predict: string): string {
  let url: URL;
  try {
    url = new URL(predict);
  } catch {
    return "";
  }
  const host = url.hostname.replace(/^\[|\]$/g, "");
  const name = /^[\d.:]+$/.test(host) ? host.replace(/:+/g, "-") : (host.split(".")[0] ?? "");
  return url.port ? `${name}-${url.port}` : name;
}

const FIELDS: Record<string, Field> = {
  "endpoints.predict": "predict",
  "endpoints.health": "health",
  endpoints: "predict",
  async: "answers",
  callback: "answers",
  dialect: "program",
  mode: "program",
  preset: "program",
  "healthExpect.status": "healthStatus",
  "healthExpect.json": "healthJson",
  healthExpect: "healthStatus",
  "overflow.waiting": "overflowWaiting",
  "overflow.oldest": "overflowOldest",
  overflow: "overflowWaiting",
};

/** Return the field of the form that a path of a problem document is about, null if none is. */
export function fieldOf(path: string | undefined): Field | null {
  let rest = (path ?? "").replace(/^\$\.?/, "").replace(/^server(\.|$)/, "");
  while (rest) {
    const named = FIELDS[rest];
    if (named) return named;
    if (rest in EMPTY) return rest as Field;
    const cut = Math.max(rest.lastIndexOf("."), rest.lastIndexOf("["));
    if (cut < 0) return null;
    rest = rest.slice(0, cut);
  }
  return null;
}
