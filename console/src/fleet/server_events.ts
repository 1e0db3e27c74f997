/** Events of a server in words. */

export type EventTone = "good" | "bad" | "warning" | "note";

interface Said {
  text: string;
  tone: EventTone;
}

type Fields = Record<string, unknown>;

const text = (value: unknown): string => (typeof value === "string" ? value : "");
const because = (fields: Fields): string => (text(fields.reason) ? `: ${text(fields.reason)}` : "");

/** Return an event as a sentence without a full stop. One of a newer version is named as it is. */
export function said(event: Fields): Said {
  switch (event.type) {
    case "ServerRegistered":
      return { text: `registered${text(event.predict_url) && ` at ${text(event.predict_url)}`}`, tone: "note" };
    case "DialectDetected": {
      const program = text(event.program) && ` (${text(event.program)})`;
      return { text: `found to speak ${text(event.dialect)}${program}`, tone: "note" };
    }
    case "ServerWentOnline":
      return { text: `online${because(event)}`, tone: "good" };
    case "ServerWentOffline":
      return { text: `offline${because(event)}`, tone: "bad" };
    case "ServerStatusReasonChanged":
      return { text: `the reason is now${because(event)}`, tone: "note" };
    case "MaintenanceStarted":
      return { text: `maintenance began${because(event)}`, tone: "warning" };
    case "MaintenanceEnded":
      return { text: `maintenance ended${because(event)}`, tone: "good" };
    case "CircuitOpened": {
      const owner = text(event.owner) && `, all of ${text(event.owner)}`;
      return { text: `circuit opened${because(event)}${owner}`, tone: "bad" };
    }
    case "CircuitHalfOpened":
      return { text: "one task on trial", tone: "warning" };
    case "CircuitClosed":
      return { text: `circuit closed${because(event)}`, tone: "good" };
    case "ModelsFound": {
      const models = Array.isArray(event.models) ? event.models.map(String) : [];
      return { text: `serves ${models.length ? models.join(", ") : "no model"}`, tone: "note" };
    }
    case "ServerRemoved":
      return {
        text: text(event.reason).startsWith("removed") ? text(event.reason) : `removed${because(event)}`,
        tone: "bad",
      };
    case "ServerRestored":
      return { text: `restored${because(event)}`, tone: "good" };
    case "ServerForgotten":
      return { text: `forgotten${because(event)}`, tone: "warning" };
    default:
      return { text: text(event.type) || "an event", tone: "note" };
  }
}

/** Return who did it: `root`, `the health check`, `worker w-2`. */
export function actorText(by: { kind?: string; id?: string }): string {
  if (by.kind === "user") return by.id ?? "a user";
  if (by.kind === "timer" && by.id === "health-check") return "the health check";
  return [by.kind, by.id].filter(Boolean).join(" ");
}
