/** What needs a person: read for the whole console, shown as a list on the overview and as a line elsewhere. */
import { signal } from "@preact/signals";
import { useEffect } from "preact/hooks";
import { get } from "../api/client.ts";
import type { Schema } from "../api/types.ts";
import { isLive, useLive } from "../live/feed.ts";
import { Icon } from "../parts/Icon.tsx";
import { usePoll } from "../parts/resource.ts";
import { Shape } from "../parts/StateMark.tsx";
import { When } from "../parts/time.tsx";
import { address } from "../router.ts";
import { hasPage } from "../routes.ts";
import { plural } from "../text/format.ts";

type Alarm = Schema<"AlarmInfo">;

export const alarms = signal<Schema<"AlarmsAnswer"> | null>(null);
const POLL_MS = 10_000;
const LIVE_POLL_MS = 60_000;

export function numberOf(answer: Schema<"AlarmsAnswer">): number {
  return answer.alarms.length + Object.values(answer.more).reduce((sum, each) => sum + each, 0);
}

export function AlarmStrip() {
  const found = usePoll(
    "alarms",
    (stop) => get<Schema<"AlarmsAnswer">>("/api/alarms", { signal: stop, noted: false }),
    isLive.value ? LIVE_POLL_MS : POLL_MS,
  );
  useLive("alarms", (message) => {
    if (message.type === "alarms") alarms.value = { ...(message as unknown as Schema<"AlarmsAnswer">), readAt: "" };
  });
  useEffect(() => {
    if (found.data) alarms.value = found.data;
  }, [found.data]);
  const answer = alarms.value;
  const [first] = answer?.alarms ?? [];
  if (!answer || !first || address.value.path === "/") return null;
  const number = numberOf(answer);
  return (
    <div class={`alarm-strip alarm-${first.severity}`} role="status">
      <Shape mark="warning" label={first.severity} />
      <span class="alarm-first">
        {number > 1 && <b>{number} need attention: </b>}
        {first.text}
      </span>
      <a href="#/">{number > 1 ? `All ${number}` : "Show"}</a>
    </div>
  );
}

export function AlarmList() {
  const answer = alarms.value;
  if (!answer) return <p class="muted quiet-line">Looking whether anything needs attention …</p>;
  if (!answer.alarms.length)
    return (
      <p class="quiet-line state-finished">
        <Icon name="check" /> Nothing needs attention.
      </p>
    );
  const more = Object.values(answer.more).reduce((sum, each) => sum + each, 0);
  return (
    <section class="alarms" aria-label={`${plural(numberOf(answer), "alarm")}`} id="attention" tabIndex={-1}>
      <h2>Needs attention</h2>
      <ul>
        {answer.alarms.slice(0, SHOWN).map((alarm, index) => (
          <AlarmLine key={`${alarm.kind} ${alarm.subject?.id} ${index}`} alarm={alarm} />
        ))}
      </ul>
      {answer.alarms.length + more > SHOWN && <p class="muted">and {answer.alarms.length + more - SHOWN} more</p>}
    </section>
  );
}

const SHOWN = 12;

function AlarmLine({ alarm }: { alarm: Alarm }) {
  return (
    <li class={`alarm alarm-${alarm.severity}`}>
      <Shape mark={alarm.severity === "critical" ? "failed" : "warning"} label={alarm.severity} />
      <span>{hasPage(alarm.link) ? <a href={alarm.link}>{alarm.text}</a> : alarm.text}</span>
      {alarm.since && (
        <span class="muted meta">
          <When at={alarm.since} />
        </span>
      )}
    </li>
  );
}
