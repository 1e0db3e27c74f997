// The events of a task, folded into what people ask for: its phases, its attempts, who did what, how it ended. Pure.
// Takes events of `GET /api/task/{id}/events` and of streams, in any order, repeated or with gaps.

export interface By {
  kind: string;
  id: string;
  /** Id of the API key that was used. */
  key?: string;
}

/** An event as the API shows it. The fields of `event` are those of src/events/task.py. */
export interface TaskEvent {
  sequence: number;
  at: string;
  by: By;
  cause?: string;
  event: { type: string; [field: string]: unknown };
  sizes?: Record<string, number> | null;
}

export type PhaseKind = "held" | "queued" | "retry" | "running";

export interface Phase {
  kind: PhaseKind;
  /** Milliseconds since the epoch, as are all instants here. */
  from: number;
  /** Null: it goes on. */
  to: number | null;
  /** Of a running phase: its attempt; of a retry: the attempt that failed. */
  attempt: number;
  reason: string;
  sequence: number;
}

export type Outcome = "running" | "succeeded" | "failed" | "retried" | "returned" | "cancelled" | "unknown";

export interface Attempt {
  number: number;
  /** Empty: none is known. */
  server: string;
  /** Empty: a report took the task. */
  worker: string;
  by: By;
  /** Null: its start is past the retention. */
  startedAt: number | null;
  acceptedAt: number | null;
  backendTaskId: string;
  deadline: number | null;
  endedAt: number | null;
  outcome: Outcome;
  /** Kind of failure or of return; empty without one. */
  kind: string;
  error: string;
  retryAt: number | null;
  notes: string[];
  /** Reports of progress in its events. */
  reports: number;
  progress: number | null;
  message: string;
  /** Progress over time: instants and percent. */
  marks: { at: number; progress: number | null; message: string; sequence: number }[];
  cancelOutcome: string;
  cancelDetail: string;
  startSequence: number;
  endSequence: number;
}

export interface Submission {
  at: number;
  by: By;
  cause: string;
  type: string;
  pool: string;
  priority: string;
  attempts: number;
  timeoutSeconds: number | null;
  batch: string;
  schedule: string;
  dependsOn: string[];
  held: boolean;
  sequence: number;
}

export interface Ending {
  at: number;
  status: "FINISHED" | "FAILED" | "CANCELLED";
  by: By;
  kind: string;
  error: string;
  attempt: number;
  sequence: number;
}

export interface TaskStory {
  /** Null: the beginning is past the retention, or was not loaded. */
  submission: Submission | null;
  phases: Phase[];
  attempts: Attempt[];
  end: Ending | null;
  deletedAt: number | null;
  /** Ends before it was retried by hand. */
  earlierEnds: Ending[];
  actors: By[];
  lastSequence: number;
}

/** Marks kept of an attempt. */
const MOST_MARKS = 400;

export function foldTask(events: readonly TaskEvent[]): TaskStory {
  const folding = new Folding();
  for (const event of inOrder(events)) folding.add(event);
  return folding.story;
}

/** The events by sequence, each once. */
export function inOrder(events: readonly TaskEvent[]): TaskEvent[] {
  const sorted = [...events].sort((one, other) => one.sequence - other.sequence);
  return sorted.filter((event, at) => at === 0 || event.sequence !== sorted[at - 1]?.sequence);
}

class Folding {
  readonly story: TaskStory = {
    submission: null,
    phases: [],
    attempts: [],
    end: null,
    deletedAt: null,
    earlierEnds: [],
    actors: [],
    lastSequence: 0,
  };

  add(recorded: TaskEvent): void {
    const { event } = recorded;
    const at = Date.parse(recorded.at);
    const { story } = this;
    story.lastSequence = recorded.sequence;
    if (!story.actors.some((by) => by.kind === recorded.by.kind && by.id === recorded.by.id)) {
      story.actors.push(recorded.by);
    }
    switch (event.type) {
      case "TaskSubmitted":
        story.submission = submissionOf(recorded, at);
        this.enter(event.held === true ? "held" : "queued", at, recorded, "submitted");
        break;
      case "TaskHeld":
      case "TaskQueued":
        if (event.renewed === true) this.renew();
        this.enter(event.type === "TaskHeld" ? "held" : "queued", at, recorded, text(event.reason));
        break;
      case "AttemptStarted":
        this.start(recorded, at);
        break;
      case "AttemptAccepted": {
        const attempt = this.attempt(number(event.attempt));
        attempt.acceptedAt = at;
        attempt.backendTaskId = text(event.backend_task_id);
        break;
      }
      case "ProgressReported":
        this.report(recorded, at);
        break;
      case "AttemptFailed":
        this.endAttempt(recorded, at, "retried");
        this.retry(recorded, at);
        break;
      case "AttemptReturned":
        this.endAttempt(recorded, at, "returned");
        this.enter("queued", at, recorded, text(event.reason));
        break;
      case "TaskSucceeded":
        this.finish(recorded, at, "FINISHED", "succeeded");
        break;
      case "TaskFailed":
        this.finish(recorded, at, "FAILED", "failed");
        break;
      case "TaskCancelled":
        this.finish(recorded, at, "CANCELLED", "cancelled");
        break;
      case "CancelReported": {
        const attempt = this.attempt(number(event.attempt));
        attempt.cancelOutcome = text(event.outcome);
        attempt.cancelDetail = text(event.detail);
        break;
      }
      case "TaskDeleted":
        story.deletedAt = at;
        break;
      default: // of a later version
    }
  }

  private leave(at: number): void {
    const last = this.story.phases[this.story.phases.length - 1];
    if (last === undefined || last.to !== null) {
      // A retry has its end from the beginning: it may be cut, and what follows it is a queue.
      if (last?.kind === "retry" && last.to !== null) this.leaveRetry(last, at);
      return;
    }
    last.to = Math.max(last.from, at);
  }

  private leaveRetry(retry: Phase, at: number): void {
    const due = retry.to ?? at;
    if (at <= due) {
      retry.to = Math.max(retry.from, at);
    } else {
      this.story.phases.push({ ...retry, kind: "queued", from: due, to: at, reason: "its next attempt was due" });
    }
  }

  private enter(kind: PhaseKind, at: number, recorded: TaskEvent, reason: string, attempt = 0): void {
    this.leave(at);
    this.story.phases.push({ kind, from: at, to: null, attempt, reason, sequence: recorded.sequence });
  }

  private retry(recorded: TaskEvent, at: number): void {
    this.leave(at);
    const due = instant(recorded.event.retry_at) ?? at;
    const attempt = number(recorded.event.attempt);
    const { sequence } = recorded;
    const reason = text(recorded.event.error);
    this.story.phases.push({ kind: "retry", from: at, to: Math.max(at, due), attempt, reason, sequence });
  }

  private renew(): void {
    if (this.story.end !== null) this.story.earlierEnds.push(this.story.end);
    this.story.end = null;
  }

  private start(recorded: TaskEvent, at: number): void {
    const { event } = recorded;
    const attempt = this.attempt(number(event.attempt));
    attempt.server = text(event.server_id);
    attempt.worker = text(event.worker_id);
    attempt.by = recorded.by;
    attempt.startedAt = at;
    attempt.deadline = instant(event.deadline);
    attempt.outcome = "running";
    attempt.startSequence = recorded.sequence;
    if (attempt.worker === "") attempt.acceptedAt = at;
    this.enter("running", at, recorded, "", attempt.number);
  }

  private report(recorded: TaskEvent, at: number): void {
    const { event } = recorded;
    const attempt = this.attempt(number(event.attempt));
    const progress = typeof event.progress === "number" ? event.progress : null;
    attempt.reports += typeof event.reports === "number" ? event.reports : 1;
    attempt.progress = progress ?? attempt.progress;
    attempt.message = text(event.message) || attempt.message;
    attempt.notes.push(...texts(event.notes));
    attempt.marks.push({ at, progress, message: text(event.message), sequence: recorded.sequence });
    if (attempt.marks.length > MOST_MARKS) attempt.marks = attempt.marks.filter((_, index) => index % 2 === 0);
  }

  private endAttempt(recorded: TaskEvent, at: number, outcome: Outcome): void {
    const { event } = recorded;
    if (number(event.attempt) === 0) return;
    const attempt = this.attempt(number(event.attempt));
    if (attempt.startSequence === 0 && outcome === "cancelled") return;
    attempt.server ||= text(event.server_id);
    attempt.endedAt = at;
    attempt.outcome = outcome;
    attempt.kind = text(event.kind);
    attempt.error = text(event.error) || text(event.reason);
    attempt.retryAt = instant(event.retry_at);
    attempt.notes.push(...texts(event.notes));
    attempt.endSequence = recorded.sequence;
  }

  private finish(recorded: TaskEvent, at: number, status: Ending["status"], outcome: Outcome): void {
    const { event } = recorded;
    const ran = this.story.attempts[this.story.attempts.length - 1];
    const last = this.story.phases[this.story.phases.length - 1];
    const isRunning = last === undefined || (last.kind === "running" && last.to === null);
    // What fails while it waits ends no attempt, though it names the last one.
    if (isRunning && (ran === undefined || ran.number === number(event.attempt))) {
      this.endAttempt(recorded, at, outcome);
    }
    this.leave(at);
    this.story.end = {
      at,
      status,
      by: recorded.by,
      kind: text(event.kind),
      error: text(event.error) || text(event.reason),
      attempt: number(event.attempt),
      sequence: recorded.sequence,
    };
  }

  private attempt(ordinal: number): Attempt {
    const found = this.story.attempts.find((attempt) => attempt.number === ordinal);
    if (found !== undefined) return found;
    const attempt: Attempt = {
      number: ordinal,
      server: "",
      worker: "",
      by: { kind: "", id: "" },
      startedAt: null,
      acceptedAt: null,
      backendTaskId: "",
      deadline: null,
      endedAt: null,
      outcome: "unknown",
      kind: "",
      error: "",
      retryAt: null,
      notes: [],
      reports: 0,
      progress: null,
      message: "",
      marks: [],
      cancelOutcome: "",
      cancelDetail: "",
      startSequence: 0,
      endSequence: 0,
    };
    this.story.attempts.push(attempt);
    return attempt;
  }
}

function submissionOf(recorded: TaskEvent, at: number): Submission {
  const { event } = recorded;
  const policy = (event.policy ?? {}) as Record<string, unknown>;
  const plan = (event.plan ?? {}) as Record<string, unknown>;
  return {
    at,
    by: recorded.by,
    cause: recorded.cause ?? "",
    type: text(event.task_type),
    pool: text(event.pool),
    priority: text(event.priority),
    attempts: number(policy.attempts),
    timeoutSeconds: seconds(text(policy.timeout)),
    batch: text(event.batch),
    schedule: text(event.schedule),
    dependsOn: texts(plan.depends_on),
    held: event.held === true,
    sequence: recorded.sequence,
  };
}

/** The phases up to now: one that goes on ends now, and a task whose next attempt is due is queued. */
export function phasesUntil(story: TaskStory, now: number): Phase[] {
  const phases = story.phases.map((phase) => ({ ...phase }));
  const last = phases[phases.length - 1];
  if (last === undefined || story.end !== null) return phases;
  if (last.kind === "retry" && last.to !== null) {
    if (last.to < now) {
      phases.push({
        ...last,
        kind: "queued",
        from: last.to,
        to: Math.max(now, last.to),
        reason: "its next attempt is due",
      });
    }
    return phases;
  }
  if (last.to === null) last.to = Math.max(now, last.from);
  return phases;
}

export interface Times {
  held: number;
  queued: number;
  retry: number;
  running: number;
}

/** Milliseconds spent in each kind of phase. */
export function timesOf(phases: readonly Phase[]): Times {
  const times: Times = { held: 0, queued: 0, retry: 0, running: 0 };
  for (const phase of phases) times[phase.kind] += (phase.to ?? phase.from) - phase.from;
  return times;
}

/** Seconds of an ISO 8601 duration such as `PT1.5S` or `P1DT2H`; null if it is none. */
export function seconds(duration: string): number | null {
  const found = /^P(?:(\d+(?:\.\d+)?)D)?(?:T(?:(\d+(?:\.\d+)?)H)?(?:(\d+(?:\.\d+)?)M)?(?:(\d+(?:\.\d+)?)S)?)?$/.exec(
    duration,
  );
  if (found === null || duration.length < 3) return null;
  const [, days, hours, minutes, rest] = found.map((part) => Number(part ?? 0)) as [
    number,
    number,
    number,
    number,
    number,
  ];
  return days * 86_400 + hours * 3_600 + minutes * 60 + rest;
}

/** What happened, in a few words. Names of the service's own only: what others wrote is in `detailOf`. */
export function titleOf({ event }: TaskEvent): string {
  const attempt = number(event.attempt);
  switch (event.type) {
    case "TaskSubmitted":
      return event.held === true ? "submitted, held" : "submitted, queued";
    case "TaskHeld":
      return event.renewed === true ? "retried by hand, held" : "held again";
    case "TaskQueued":
      return event.renewed === true
        ? "retried by hand, queued"
        : event.granted === true
          ? "queued: nothing holds it"
          : "queued again";
    case "AttemptStarted":
      return `attempt ${attempt} started`;
    case "AttemptAccepted":
      return `attempt ${attempt} accepted`;
    case "ProgressReported":
      return typeof event.progress === "number" ? `progress ${percent(event.progress)}` : "progress";
    case "AttemptFailed":
      return `attempt ${attempt} failed: ${text(event.kind)}`;
    case "AttemptReturned":
      return `attempt ${attempt} returned: ${text(event.kind) || "shutdown"}`;
    case "TaskSucceeded":
      return "finished";
    case "TaskFailed":
      return `failed: ${text(event.kind)}`;
    case "TaskCancelled":
      return "cancelled";
    case "CancelReported":
      return `cancellation ${text(event.outcome)}`;
    case "TaskDeleted":
      return "deleted";
    default:
      return event.type;
  }
}

/** What an event says besides: an error, a reason, a message, a server. */
export function detailOf({ event }: TaskEvent): string {
  switch (event.type) {
    case "AttemptStarted":
      return text(event.server_id);
    case "AttemptAccepted":
      return text(event.backend_task_id);
    case "ProgressReported":
      return text(event.message);
    case "CancelReported":
      return text(event.detail);
    default:
      return text(event.error) || text(event.reason);
  }
}

export function percent(value: number): string {
  return `${Number(value.toFixed(1))} %`;
}

function text(value: unknown): string {
  return typeof value === "string" ? value : "";
}

function number(value: unknown): number {
  return typeof value === "number" ? value : 0;
}

function texts(value: unknown): string[] {
  return Array.isArray(value) ? value.filter((each): each is string => typeof each === "string") : [];
}

function instant(value: unknown): number | null {
  const at = typeof value === "string" ? Date.parse(value) : Number.NaN;
  return Number.isNaN(at) ? null : at;
}
