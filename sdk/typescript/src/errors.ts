/**
 * Every error of this package:
 *
 *     TaskstreamError
 *     ├── ConnectionError            nobody answered, or the answer was cut
 *     ├── ApiError                   the service refused; `status`, `problem`, `requestId`, `retryAfterMs`
 *     │   ├── InvalidRequestError    400, 413, 415, 422: the request is wrong, `path` says where
 *     │   ├── AuthenticationError    401
 *     │   ├── PermissionError        403
 *     │   ├── NotFoundError          404
 *     │   ├── ConflictError          409, 412
 *     │   ├── RateLimitedError       429
 *     │   └── UnavailableError       5xx
 *     ├── TaskError                  a task has ended without success; `task`
 *     │   ├── TaskFailedError
 *     │   └── TaskCancelledError
 *     ├── WaitTimeoutError           the task has not ended in time; it goes on
 *     └── WebhookVerificationError   a message is not from the service, or too old
 *
 * A call that is aborted rejects with the reason of its signal, as `fetch` does.
 */
import type { Problem, TaskDetails } from "./types.ts";

export class TaskstreamError extends Error {
  override name = "TaskstreamError";
}

/** Nobody answered, or the answer was cut. If the request changes something, it may have been carried out. */
export class ConnectionError extends TaskstreamError {
  override name = "ConnectionError";
}

/** The service refused a request. */
export class ApiError extends TaskstreamError {
  override name = "ApiError";
  readonly status: number;
  /** The problem document (RFC 9457); null if the answer had none, as from a proxy. */
  readonly problem: Problem | null;
  /** Names the request in the service's log. */
  readonly requestId: string;
  /** Null: not said. */
  readonly retryAfterMs: number | null;

  constructor(status: number, problem: Problem | null, requestId: string, retryAfterMs: number | null) {
    super(problem?.detail || problem?.title || `the service answered ${status} without a reason`);
    this.status = status;
    this.problem = problem;
    this.requestId = requestId;
    this.retryAfterMs = retryAfterMs;
  }

  /** Where in the request, as in `$.payload.width`; null: not said. */
  get path(): string | null {
    return this.problem?.path ?? null;
  }
}

export class InvalidRequestError extends ApiError {
  override name = "InvalidRequestError";
}
export class AuthenticationError extends ApiError {
  override name = "AuthenticationError";
}
export class PermissionError extends ApiError {
  override name = "PermissionError";
}
export class NotFoundError extends ApiError {
  override name = "NotFoundError";
}
export class ConflictError extends ApiError {
  override name = "ConflictError";
}
export class RateLimitedError extends ApiError {
  override name = "RateLimitedError";
}
export class UnavailableError extends ApiError {
  override name = "UnavailableError";
}

/** A task has ended without success. */
export class TaskError extends TaskstreamError {
  override name = "TaskError";
  readonly task: TaskDetails;

  constructor(task: TaskDetails, message: string) {
    super(message);
    this.task = task;
  }

  get taskId(): string {
    return this.task.id;
  }
}

export class TaskFailedError extends TaskError {
  override name = "TaskFailedError";

  constructor(task: TaskDetails) {
    super(task, task.error ?? "the task failed");
  }

  /** The kind of failure: `rejected`, `timeout`, `expired`, … */
  get kind(): TaskDetails["failureKind"] {
    return this.task.failureKind;
  }
}

export class TaskCancelledError extends TaskError {
  override name = "TaskCancelledError";

  constructor(task: TaskDetails) {
    super(task, task.error ?? "the task was cancelled");
  }
}

/** The task has not ended in time. It goes on. */
export class WaitTimeoutError extends TaskstreamError {
  override name = "WaitTimeoutError";
  readonly taskId: string;

  constructor(taskId: string, timeoutMs: number) {
    super(`the task ${taskId} has not ended within ${timeoutMs / 1000} s; it goes on`);
    this.taskId = taskId;
  }
}

/** A message is not from the service, or too old. */
export class WebhookVerificationError extends TaskstreamError {
  override name = "WebhookVerificationError";
}

const BY_STATUS: Record<number, typeof ApiError> = {
  400: InvalidRequestError,
  401: AuthenticationError,
  403: PermissionError,
  404: NotFoundError,
  409: ConflictError,
  412: ConflictError,
  413: InvalidRequestError,
  415: InvalidRequestError,
  422: InvalidRequestError,
  429: RateLimitedError,
};

/** Return the error for an answer. `body`: its text. */
export function errorFor(response: Response, body: string): ApiError {
  let problem: Problem | null = null;
  try {
    const parsed: unknown = JSON.parse(body);
    if (parsed !== null && typeof parsed === "object") {
      const { detail, error, title } = parsed as Partial<Problem>;
      problem = { ...(parsed as Problem), detail: text(detail) || text(error), title: text(title) };
    }
  } catch {
    // A proxy's page: the status says what can be said.
  }
  const Class = BY_STATUS[response.status] ?? (response.status >= 500 ? UnavailableError : ApiError);
  return new Class(response.status, problem, response.headers.get("X-Request-Id") ?? "", retryAfterMs(response));
}

function text(value: unknown): string {
  return typeof value === "string" ? value : "";
}

function retryAfterMs(response: Response): number | null {
  const value = response.headers.get("Retry-After")?.trim();
  if (!value) return null;
  if (/^\d+(\.\d+)?$/.test(value)) return Number(value) * 1000;
  const at = Date.parse(value);
  return Number.isNaN(at) ? null : Math.max(0, at - Date.now());
}
