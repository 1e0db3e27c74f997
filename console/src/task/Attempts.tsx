/** The attempts of a task: where each ran, how long, and why it ended. Newest first. */
import type { Attempt, TaskStory } from "../fold/task.ts";
import { StateMark } from "../parts/StateMark.tsx";
import { EmptyState } from "../parts/states.tsx";
import { Duration, Exact, When } from "../parts/time.tsx";
import { count } from "../text/format.ts";
import { OUTCOME_MARKS, OUTCOME_WORDS } from "./outcomes.ts";
import { Safe, ServerLink } from "./Safe.tsx";

export function Attempts({ story, onSequence }: { story: TaskStory; onSequence: (sequence: number) => void }) {
  if (!story.attempts.length) {
    return <EmptyState title="No attempt yet">It has not been handed to a server.</EmptyState>;
  }
  return (
    <ol class="attempts" reversed>
      {[...story.attempts].reverse().map((attempt) => (
        <AttemptRow key={attempt.number} attempt={attempt} onSequence={onSequence} />
      ))}
    </ol>
  );
}

function AttemptRow({ attempt, onSequence }: { attempt: Attempt; onSequence: (sequence: number) => void }) {
  const word = attempt.kind ? `${OUTCOME_WORDS[attempt.outcome]}: ${attempt.kind}` : OUTCOME_WORDS[attempt.outcome];
  const sequence = attempt.endSequence || attempt.startSequence;
  return (
    <li class="attempt-row">
      <span class="attempt-number number">#{attempt.number}</span>
      <span class="attempt-outcome">
        <StateMark mark={OUTCOME_MARKS[attempt.outcome]} progress={attempt.progress} word={word} />
      </span>
      <span class="attempt-server">
        {attempt.server ? <ServerLink id={attempt.server} /> : <span class="muted">no server</span>}
      </span>
      <span class="attempt-times">
        {attempt.startedAt === null ? <span class="muted">start unknown</span> : <When at={attempt.startedAt} />}
        <span class="muted"> for </span>
        <Duration from={attempt.startedAt} to={attempt.endedAt} />
      </span>
      <span class="attempt-who meta muted">
        {attempt.worker ? (
          <>
            worker <Safe text={attempt.worker} />
          </>
        ) : (
          <>
            taken by {attempt.by.kind} <Safe text={attempt.by.id} />
          </>
        )}
        {attempt.acceptedAt !== null && attempt.worker !== "" && ", accepted"}
        {attempt.backendTaskId && (
          <>
            {" "}
            as <Safe text={attempt.backendTaskId} />
          </>
        )}
        {attempt.reports > 0 && `, ${count(attempt.reports)} reports`}
      </span>
      {sequence > 0 && (
        <button type="button" class="quiet small number" title="Show this event" onClick={() => onSequence(sequence)}>
          {count(sequence)}
        </button>
      )}
      {(attempt.error || attempt.message || attempt.cancelOutcome || attempt.outcome === "running") && (
        <div class="attempt-more">
          {attempt.error && (
            <pre class="attempt-error">
              <Safe text={attempt.error} />
            </pre>
          )}
          {!attempt.error && attempt.message && (
            <p class="muted">
              <Safe text={attempt.message} />
            </p>
          )}
          {attempt.outcome === "running" && attempt.deadline !== null && (
            <p class="muted meta">
              times out <When at={attempt.deadline} />
            </p>
          )}
          {attempt.outcome === "retried" && attempt.retryAt !== null && (
            <p class="muted meta">
              the next was due at <Exact at={attempt.retryAt} />
            </p>
          )}
          {attempt.cancelOutcome && (
            <p class="muted meta">
              cancellation {attempt.cancelOutcome}
              {attempt.cancelDetail && (
                <>
                  : <Safe text={attempt.cancelDetail} />
                </>
              )}
            </p>
          )}
          {[...new Set(attempt.notes)].slice(0, 5).map((note) => (
            <p key={note} class="meta">
              <Safe text={note} />
            </p>
          ))}
        </div>
      )}
    </li>
  );
}
