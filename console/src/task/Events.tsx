/** The events of a task as the log has them: sequence, actor, cause, and each as JSON. */
import { useEffect, useState } from "preact/hooks";
import { get, request } from "../api/client.ts";
import { detailOf, type TaskEvent, titleOf } from "../fold/task.ts";
import { Pager } from "../parts/DataTable.tsx";
import { Icon } from "../parts/Icon.tsx";
import { useResource } from "../parts/resource.ts";
import { EmptyState, Problem, Skeleton } from "../parts/states.tsx";
import { Exact } from "../parts/time.tsx";
import { bytes, count } from "../text/format.ts";
import { readJson, textAt } from "../text/json.ts";
import { JsonView } from "./JsonView.tsx";
import { Safe } from "./Safe.tsx";

const PAGE = 100;
const STRUCTURE =
  "TaskSubmitted,TaskHeld,TaskQueued,AttemptStarted,AttemptAccepted,AttemptFailed,AttemptReturned,TaskSucceeded,TaskFailed,TaskCancelled,CancelReported,TaskDeleted";

interface Page {
  events: TaskEvent[];
  nextBefore: number | null;
  total: number;
}

interface Props {
  id: string;
  /** Changes when there is a new event. */
  version: number;
  /** The event to show first; null: the newest. */
  sequence: number | null;
}

export function Events({ id, version, sequence }: Props) {
  const [places, setPlaces] = useState<number[]>([]);
  const [progress, setProgress] = useState(true);
  const [open, setOpen] = useState<number | null>(sequence);
  const path = `/api/task/${encodeURIComponent(id)}/events`;
  const before = places[places.length - 1] ?? (sequence === null ? "end" : sequence + 1);
  const isNewest = before === "end";
  const query = { before, limit: PAGE, bodies: false, event: progress ? undefined : STRUCTURE };
  const page = useResource(`${path} ${before} ${progress} ${isNewest ? version : ""}`, (signal) =>
    get<Page>(path, { query, signal }),
  );
  const [last, setLast] = useState<Page | undefined>(undefined);
  // The page stays while its next version loads.
  useEffect(() => {
    if (page.data) setLast(page.data);
  }, [page.data]);
  useEffect(() => {
    setOpen(sequence);
    setPlaces([]);
  }, [sequence]);
  const data = page.data ?? last;
  if (page.error && !data) return <Problem error={page.error} onRetry={page.reload} />;
  if (!data) return <Skeleton rows={6} label="Loading: events" />;
  return (
    <div class="events">
      <div class="viewer-bar">
        <span class="muted meta number">{count(data.total)} events, newest first</span>
        <span class="grow" />
        <label class="meta events-check">
          <input
            type="checkbox"
            checked={progress}
            onChange={(event) => {
              setProgress(event.currentTarget.checked);
              setPlaces([]);
            }}
          />
          with progress
        </label>
      </div>
      {data.events.length === 0 ? (
        <EmptyState title="No event here">Older events are past their retention.</EmptyState>
      ) : (
        <ol class="event-list">
          {data.events.map((event) => (
            <EventRow
              key={event.sequence}
              path={path}
              event={event}
              isOpen={open === event.sequence}
              onToggle={() => setOpen(open === event.sequence ? null : event.sequence)}
            />
          ))}
        </ol>
      )}
      <Pager
        shown=""
        onFirst={isNewest && !sequence ? null : () => setPlaces([])}
        onNext={data.nextBefore === null ? null : () => setPlaces([...places, data.nextBefore as number])}
      />
    </div>
  );
}

function EventRow({
  path,
  event,
  isOpen,
  onToggle,
}: {
  path: string;
  event: TaskEvent;
  isOpen: boolean;
  onToggle: () => void;
}) {
  const size = Object.values(event.sizes ?? {}).reduce((sum, each) => sum + each, 0);
  const byRequest = !/^\d+$/.test(event.cause ?? "");
  return (
    <li class="event-row">
      <button type="button" class="event-head" aria-expanded={isOpen} onClick={onToggle}>
        <Icon name={isOpen ? "chevron-down" : "chevron-right"} size={14} />
        <span class="event-sequence number muted">{count(event.sequence)}</span>
        <span class="event-time number muted">
          <Exact at={event.at} />
        </span>
        <span class="event-title">{titleOf(event)}</span>
        <span class="event-detail muted">
          <Safe text={detailOf(event)} />
          {size > 0 && ` ${bytes(size)}`}
        </span>
        <span class="event-by muted">
          {event.by.kind} <Safe text={event.by.id} />
          {event.by.key && " with a key"}
        </span>
      </button>
      {isOpen && (
        <div class="event-body">
          <p class="meta muted">
            <code>{event.event.type}</code>
            {event.cause && (
              <>
                {" "}
                caused by {byRequest ? "request" : "event"} <code>{event.cause}</code>
              </>
            )}
          </p>
          <EventJson path={path} sequence={event.sequence} />
        </div>
      )}
    </li>
  );
}

/** One event as text, so that its numbers are as they were sent. */
function EventJson({ path, sequence }: { path: string; sequence: number }) {
  const found = useResource(`${path} ${sequence}`, async (signal) => {
    const query = { after: sequence - 1, limit: 1 };
    const response = await request("GET", path, { query, signal });
    const whole = readJson(await response.text());
    return readJson(textAt(whole, ["events", 0]) ?? "");
  });
  if (found.error) return <Problem error={found.error} onRetry={found.reload} />;
  if (!found.data) return <Skeleton rows={4} label="Loading: the event" />;
  return <JsonView json={found.data} label={`Event ${sequence}`} />;
}
