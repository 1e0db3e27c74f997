/** Limits in words, and what a form of limits sends. */

export interface Allowance {
  concurrency: number | null;
  perSecond: number | null;
  burst: number | null;
  waiting: number | null;
  stored: number | null;
}
export type LimitName = keyof Allowance;

/** The service's own for those that are missing; 0: none. */
export type OwnLimits = Partial<Record<LimitName, number | null>>;

export const LIMIT_NAMES: LimitName[] = ["concurrency", "perSecond", "burst", "waiting", "stored"];
export const LIMIT_WORDS: Record<
  LimitName,
  { label: string; help: string; unit: string; whole: boolean; most: number }
> = {
  concurrency: { label: "Running tasks", help: "At once. More wait, visibly.", unit: "", whole: true, most: 1_000_000 },
  perSecond: { label: "Starts per second", help: "In the long run.", unit: "/s", whole: false, most: 1_000_000 },
  burst: { label: "Burst", help: "Starts at once after a quiet time.", unit: "", whole: true, most: 1_000_000 },
  waiting: {
    label: "Waiting tasks",
    help: "A quota: beyond it a submit is refused (429).",
    unit: "",
    whole: true,
    most: 1e9,
  },
  stored: { label: "Stored bytes", help: "A quota on events and results (429).", unit: "", whole: true, most: 2 ** 60 },
};

const UNITS = ["B", "kB", "MB", "GB", "TB", "PB"];

/** Return bytes with a unit: `1.8 GB`. */
export function bytes(value: number): string {
  let [rest, unit] = [value, 0];
  while (rest >= 1000 && unit < UNITS.length - 1) {
    rest /= 1000;
    unit += 1;
  }
  return `${unit && rest < 10 ? rest.toFixed(1) : Math.round(rest)} ${UNITS[unit]}`;
}

/** Return a limit as it is shown: `5`, `2/s`, `1.8 GB`, `none`. */
export function limitText(name: LimitName, value: number | null | undefined): string {
  if (value === null || value === undefined || value === 0) return "none";
  return name === "stored" ? bytes(value) : `${value.toLocaleString("en")}${LIMIT_WORDS[name].unit}`;
}

/** Return an owner's own limits in one line: `5 at once · 2/s, burst 10`; "" without any. */
export function ownLimitsText(own: OwnLimits | null): string {
  if (!own) return "";
  const has = (name: LimitName) => own[name] !== undefined && own[name] !== null;
  const parts: string[] = [];
  if (has("concurrency"))
    parts.push(own.concurrency ? `${limitText("concurrency", own.concurrency)} at once` : "any number at once");
  if (has("perSecond")) {
    const burst = own.perSecond && own.burst ? `, burst ${limitText("burst", own.burst)}` : "";
    parts.push(own.perSecond ? `${limitText("perSecond", own.perSecond)}${burst}` : "any rate");
  }
  if (has("waiting")) parts.push(own.waiting ? `${limitText("waiting", own.waiting)} waiting` : "any number waiting");
  if (has("stored")) parts.push(own.stored ? `${limitText("stored", own.stored)} stored` : "any bytes stored");
  return parts.join(" · ");
}

export type Choice = "service" | "none" | "own";
export interface LimitDraft {
  choice: Choice;
  text: string;
}
export type LimitsDraft = Record<LimitName, LimitDraft>;

/** Return the form of an owner's own limits. */
export function limitsDraft(own: OwnLimits | null): LimitsDraft {
  const field = (name: LimitName): LimitDraft => {
    const value = own?.[name];
    if (value === undefined || value === null) return { choice: "service", text: "" };
    return value === 0 ? { choice: "none", text: "" } : { choice: "own", text: String(value) };
  };
  return Object.fromEntries(LIMIT_NAMES.map((name) => [name, field(name)])) as LimitsDraft;
}

const BYTES = /^(\d+(?:\.\d+)?)\s*([kMGTP]?)(i?)B?$/i;

/** Return the number in a field; bytes may have a unit: `2 GB`, `512 MiB`. NaN: it is none. */
export function numberIn(name: LimitName, text: string): number {
  const trimmed = text.trim();
  if (name !== "stored") return trimmed === "" ? Number.NaN : Number(trimmed);
  const [, digits, unit = "", binary] = trimmed.match(BYTES) ?? [];
  if (!digits) return Number.NaN;
  return Math.round(Number(digits) * (binary ? 1024 : 1000) ** " kmgtp".indexOf(unit ? unit.toLowerCase() : " "));
}

/** Return what is wrong with the form, by limit. */
export function limitProblems(draft: LimitsDraft): Partial<Record<LimitName, string>> {
  const found: Partial<Record<LimitName, string>> = {};
  for (const name of LIMIT_NAMES) {
    const { choice, text } = draft[name];
    if (choice !== "own") continue;
    const value = numberIn(name, text);
    const { whole, most } = LIMIT_WORDS[name];
    if (!Number.isFinite(value)) found[name] = name === "stored" ? "must be bytes, as in 2 GB" : "must be a number";
    else if (value <= 0) found[name] = "must be more than 0; choose `none` for no limit";
    else if (whole && !Number.isInteger(value)) found[name] = "must be a whole number";
    else if (name === "perSecond" && value < 0.00001) found[name] = "must be at least 0.00001";
    else if (value > most) found[name] = `must be at most ${most.toLocaleString("en")}`;
  }
  if (draft.burst.choice === "own" && draft.perSecond.choice !== "own")
    found.burst = "needs a number of starts per second: a burst is how far that may be exceeded";
  return found;
}

/** Return the body of `PUT …/limits`; null: nothing is the owner's own, so the limits are to be removed. */
export function limitsBody(draft: LimitsDraft): Record<string, number> | null {
  const body: Record<string, number> = {};
  for (const name of LIMIT_NAMES) {
    const { choice, text } = draft[name];
    if (choice === "none" && name !== "burst") body[name] = 0;
    if (choice === "own") body[name] = numberIn(name, text);
  }
  return Object.keys(body).length ? body : null;
}

/** Return what limits would do, in a sentence. */
export function previewText(preview: {
  wouldHold: number;
  wouldRelease: number;
  over: number;
  refuses: readonly string[];
}): string {
  const number = (value: number) => value.toLocaleString("en");
  const parts = [`would hold ${number(preview.wouldHold)} more`, `release ${number(preview.wouldRelease)}`];
  if (preview.over) parts.push(`${number(preview.over)} running beyond it go on`);
  if (preview.refuses.length) parts.push(`submits would be refused at once: ${preview.refuses.join(", ")}`);
  return `Now it ${parts.join(", ")}.`;
}

/** Return the share of a limit that is used, 0 to 1; null: there is no limit. */
export function used(value: number, limit: number | null | undefined): number | null {
  return limit ? Math.min(1, value / limit) : null;
}
