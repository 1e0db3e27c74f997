/** Numbers, sizes, durations and instants as text. Pure: the clock and the zone are arguments. */

export function count(value: number): string {
  return value.toLocaleString("en-US");
}

/** `12`, `1,204`, `12.3 k`, `4.1 M`. */
export function shortCount(value: number): string {
  if (Math.abs(value) < 10_000) return count(value);
  if (Math.abs(value) < 1_000_000) return `${trim(value / 1000)} k`;
  return `${trim(value / 1_000_000)} M`;
}

const trim = (value: number) => value.toFixed(Math.abs(value) < 100 ? 1 : 0).replace(/\.0$/, "");

export function bytes(value: number): string {
  if (value < 1000) return `${value} B`;
  const units = ["kB", "MB", "GB", "TB"];
  let size = value;
  let unit = -1;
  do {
    size /= 1000;
    unit += 1;
  } while (size >= 999.95 && unit < units.length - 1);
  return `${size.toFixed(size < 10 ? 1 : 0)} ${units[unit]}`;
}

/** A duration of seconds: `12 ms`, `0.4 s`, `8.2 s`, `41 s`, `5 min`, `3 h 12 m`, `2 d 4 h`. */
export function duration(seconds: number): string {
  if (!Number.isFinite(seconds)) return "–";
  const value = Math.abs(seconds);
  const sign = seconds < 0 ? "−" : "";
  if (value === 0) return "0 s";
  if (value < 0.1) return `${sign}${Math.max(1, Math.round(value * 1000))} ms`;
  if (value < 9.95) return `${sign}${value.toFixed(1)} s`;
  if (value < 119.5) return `${sign}${Math.round(value)} s`;
  const minutes = Math.round(value / 60);
  if (minutes < 120) return `${sign}${minutes} min`;
  const hours = Math.floor(minutes / 60);
  if (hours < 48) return `${sign}${hours} h${minutes % 60 ? ` ${minutes % 60} m` : ""}`;
  return `${sign}${Math.floor(hours / 24)} d${hours % 24 ? ` ${hours % 24} h` : ""}`;
}

/** How long ago, or until: `now`, `8 s ago`, `in 3 min`. Steps are coarse, so that a list does not tick. */
export function relative(at: number, now: number): string {
  const seconds = (now - at) / 1000;
  if (Math.abs(seconds) < 1.5) return "now";
  const text = Math.abs(seconds) < 119.5 ? `${Math.round(Math.abs(seconds))} s` : duration(Math.abs(seconds));
  return seconds < 0 ? `in ${text}` : `${text} ago`;
}

/** An instant with its date, milliseconds and zone. `zone`: "" is the browser's. */
export function exact(at: number, zone: string): string {
  const parts = formatter(zone).formatToParts(at);
  const part = (type: string) => parts.find((each) => each.type === type)?.value ?? "";
  const day = `${part("year")}-${part("month")}-${part("day")}`;
  return `${day} ${part("hour")}:${part("minute")}:${part("second")}.${part("fractionalSecond")} ${part("timeZoneName")}`;
}

/** `12:03:04`; `precise` adds milliseconds. */
export function clock(at: number, zone: string, precise = false): string {
  const parts = formatter(zone).formatToParts(at);
  const part = (type: string) => parts.find((each) => each.type === type)?.value ?? "";
  const text = `${part("hour")}:${part("minute")}:${part("second")}`;
  return precise ? `${text}.${part("fractionalSecond")}` : text;
}

/** The zone as it is called now, such as `CET`. */
export function zoneName(at: number, zone: string): string {
  return (
    formatter(zone)
      .formatToParts(at)
      .find((each) => each.type === "timeZoneName")?.value ?? "UTC"
  );
}

const formatters = new Map<string, Intl.DateTimeFormat>();
function formatter(zone: string): Intl.DateTimeFormat {
  let found = formatters.get(zone);
  if (!found) {
    const options: Intl.DateTimeFormatOptions = {
      year: "numeric",
      month: "2-digit",
      day: "2-digit",
      hour: "2-digit",
      minute: "2-digit",
      second: "2-digit",
      fractionalSecondDigits: 3,
      hourCycle: "h23",
      timeZoneName: "short",
      timeZone: zone || undefined,
    };
    try {
      found = new Intl.DateTimeFormat("en-GB", options);
    } catch {
      found = new Intl.DateTimeFormat("en-GB", { ...options, timeZone: "UTC" });
    }
    formatters.set(zone, found);
  }
  return found;
}

/** Milliseconds of an instant as the API gives it: a number, or ISO 8601. NaN: none. */
export function instant(at: number | string | null | undefined): number {
  return typeof at === "number" ? at : at ? Date.parse(at) : Number.NaN;
}

/** The short form of a task id `01KDW1Z6P0…~alice`: its last characters tell tasks apart. */
export function shortId(id: string): string {
  const [key = "", owner] = id.split(/~(.*)/s);
  const short = key.length > 12 ? `${key.slice(0, 4)}…${key.slice(-5)}` : key;
  return owner ? `${short}~${owner.length > 12 ? `${owner.slice(0, 11)}…` : owner}` : short;
}

/** "1 task", "3 tasks", "10,000+ tasks". */
export function plural(value: number, one: string, many = `${one}s`, capped = false): string {
  return `${count(value)}${capped ? "+" : ""} ${value === 1 && !capped ? one : many}`;
}
