/** One task: why it is so, what happened, what went in and out. */
import type { ComponentChildren } from "preact";
import { useEffect, useMemo, useState } from "preact/hooks";
import { ApiError } from "../api/client.ts";
import { CopyButton } from "../parts/CopyButton.tsx";
import { Icon } from "../parts/Icon.tsx";
import { IdLink } from "../parts/IdLink.tsx";
import { useKeys } from "../parts/keys.ts";
import { lazy } from "../parts/lazy.tsx";
import { markOf, StateMark } from "../parts/StateMark.tsx";
import { EmptyState, Problem, Skeleton } from "../parts/states.tsx";
import { panelId, Tabs } from "../parts/Tabs.tsx";
import { Duration, Exact, When } from "../parts/time.tsx";
import { address, href, navigate, setQuery } from "../router.ts";
import type { PageProps } from "../routes.ts";
import { me, readsAll, token } from "../session.ts";
import { Attempts } from "../task/Attempts.tsx";
import { TaskActions } from "../task/actions.tsx";
import { isActive, type Outline, TaskFeed } from "../task/feed.ts";
import { Safe, ServerLink } from "../task/Safe.tsx";
import { WhyCard } from "../task/WhyCard.tsx";
import { seen, titleMark } from "../task/watch.ts";
import { bytes, count } from "../text/format.ts";

const BodyView = lazy(async () => (await import("../task/Body.tsx")).BodyView);
const Output = lazy(async () => (await import("../task/OutputTab.tsx")).OutputTab);
const Timeline = lazy(async () => (await import("../task/Timeline.tsx")).Timeline);
const Events = lazy(async () => (await import("../task/Events.tsx")).Events);
const Related = lazy(async () => (await import("../task/Related.tsx")).Related);

export default function TaskPage({ params }: PageProps) {
  const id = params.id ?? "";
  // Another token may see other things.
  const feed = useMemo(() => new TaskFeed(id), [id, token.value]);
  useEffect(() => {
    feed.open();
    return () => feed.close();
  }, [feed]);
  const task = feed.outline.value;
  const error = feed.error.value;
  useEffect(() => {
    if (!task) return;
    seen(task);
    if (!titleMark.peek()) document.title = `${WORDS[task.status]} · ${task.type} · Taskstream`;
  }, [task]);
  useEffect(() => {
    const look = () => {
      if (document.visibilityState === "visible") titleMark.value = "";
    };
    document.addEventListener("visibilitychange", look);
    return () => document.removeEventListener("visibilitychange", look);
  }, []);
  if (!task) {
    if (error instanceof ApiError && error.status === 404) return <Missing id={id} />;
    if (error) return <Problem error={error} onRetry={() => void feed.load()} />;
    return <Skeleton rows={10} label="Loading: the task" />;
  }
  return <Task key={id} feed={feed} task={task} />;
}

const WORDS: Record<string, string> = {
  WAITING: "waiting",
  PROCESSING: "running",
  FINISHED: "finished",
  FAILED: "failed",
  CANCELLED: "cancelled",
};

function Missing({ id }: { id: string }) {
  return (
    <EmptyState title="This task is not there, or not yours">
      <p>
        <code>{id}</code>
      </p>
      <p>It may have been deleted, or its events are past their retention.</p>
      <p>
        <a href="#/tasks">All tasks</a>
      </p>
    </EmptyState>
  );
}

function Task({ feed, task }: { feed: TaskFeed; task: Outline }) {
  const story = feed.story.value;
  const why = feed.why.value;
  const error = feed.error.value;
  const active = isActive(task.status);
  const tabs = [
    { id: "attempts", label: "Attempts", count: task.attempt },
    { id: "output", label: "Output" },
    { id: "payload", label: "Payload", count: bytes(task.requestBytes) },
    { id: "result", label: "Result", count: task.resultBytes === null ? "–" : bytes(task.resultBytes) },
    { id: "events", label: "Events", count: feed.total.value === null ? undefined : count(feed.total.value) },
    { id: "graph", label: "Graph", count: task.dependsOn.length ? `${task.dependsOn.length}↑` : undefined },
  ];
  const wanted = address.value.query.get("tab");
  // Chosen once: the tab does not change under the eyes of who reads when the task ends.
  const [first] = useState(() => firstTab(task));
  const current = tabs.some((tab) => tab.id === wanted) ? (wanted as string) : first;
  const choose = (tab: string) => setQuery({ tab, sequence: undefined }, { replace: true });
  const [parent] = task.dependsOn;
  useKeys("Task's tabs", [
    ...tabs.map((tab, index) => ({ key: String(index + 1), label: tab.label, run: () => choose(tab.id) })),
    { key: "w", label: "Why", run: () => document.querySelector<HTMLElement>(".why")?.scrollIntoView() },
    ...(parent
      ? [{ key: "u", label: "Its first parent", run: () => navigate(href("/task/{id}", { id: parent })) }]
      : []),
    { key: "d", label: "What depends on it", run: () => choose("graph") },
    { key: "Shift+g", label: "The end of the output", run: () => choose("output") },
  ]);
  const openSequence = (sequence: number) => setQuery({ tab: "events", sequence: String(sequence) });
  return (
    <article class={`task ${error ? "stale" : ""}`}>
      <header class="page-head task-head">
        <div class="task-title">
          <h1>
            <StateMark mark={markOf(task)} progress={task.progress} />{" "}
            <span class="task-type">
              <Safe text={task.type} />
            </span>
          </h1>
          <p class="id">
            <code>{task.id}</code> <CopyButton text={task.id} label="Copy the id" />
          </p>
        </div>
        <div class="page-actions task-actions">
          <TaskActions task={task} onDone={() => feed.changed()} />
        </div>
      </header>
      {error && <Problem error={error} onRetry={() => void feed.load()} />}
      {story?.deletedAt && (
        <Note>
          This task was deleted <When at={story.deletedAt} />. Only admins and auditors see it.
        </Note>
      )}
      {feed.gap.value && <Note>Some events are past their retention: what is shown may lack them.</Note>}
      <div class="task-columns">
        <div class="task-main">
          {why && <WhyCard why={why} task={task} />}
          {active && task.message && !why?.running && (
            <p>
              <Safe text={task.message} />
            </p>
          )}
          {story && (
            <div class="timeline-place">
              <Timeline story={story} events={feed.events.value} isCut={feed.isCut.value} />
            </div>
          )}
          <Tabs tabs={tabs} current={current} onChange={choose} label="Parts of the task" />
          <div class="task-panel" id={panelId(current)} role="tabpanel" aria-label={current}>
            <Panel feed={feed} task={task} tab={current} onSequence={openSequence} />
          </div>
        </div>
        <Facts task={task} feed={feed} />
      </div>
    </article>
  );
}

/** What one wants to see first: output while it runs, the result when there is one, else the attempts. */
function firstTab(task: Outline): string {
  if (task.status === "FINISHED") return "result";
  return task.status === "PROCESSING" ? "output" : "attempts";
}

function Note({ children }: { children: ComponentChildren }) {
  return (
    <p class="notice task-note" role="status">
      <Icon name="info" /> <span>{children}</span>
    </p>
  );
}

interface PanelProps {
  feed: TaskFeed;
  task: Outline;
  tab: string;
  onSequence: (sequence: number) => void;
}

function Panel({ feed, task, tab, onSequence }: PanelProps) {
  const path = `/api/task/${encodeURIComponent(task.id)}`;
  const story = feed.story.value;
  const sequence = Number(address.value.query.get("sequence"));
  switch (tab) {
    case "attempts":
      return story && <Attempts story={story} onSequence={onSequence} />;
    case "output":
      if (isWithheld(task)) return <Withheld />;
      return <Output feed={feed} />;
    case "events":
      return (
        <Events
          id={task.id}
          version={feed.total.value ?? 0}
          sequence={Number.isInteger(sequence) && sequence > 0 ? sequence : null}
        />
      );
    case "graph":
      return <Related id={task.id} batch={task.batchId} version={story?.end?.sequence ?? 0} />;
    case "payload":
      if (isWithheld(task)) return <Withheld />;
      return <BodyView path={`${path}/payload`} name={`${task.id}.payload`} label="Payload" version={0} />;
    default:
      if (isWithheld(task)) return <Withheld />;
      if (task.resultBytes === null) return <NoResult task={task} />;
      return (
        <BodyView
          path={`${path}/result`}
          name={`${task.id}.result`}
          label="Result"
          version={story?.lastSequence ?? 0}
        />
      );
  }
}

/** True: the caller may see the task of somebody else, and not what went in and out. */
function isWithheld(task: Outline): boolean {
  return me.value !== null && !me.value.may.readPayloads && me.value.subject !== task.owner;
}

function Withheld() {
  return (
    <EmptyState title="Not shown to you">
      <p>
        Payloads and results of other users are withheld from your token: reading them needs the claim{" "}
        <code>payloads: true</code>.
      </p>
    </EmptyState>
  );
}

function NoResult({ task }: { task: Outline }) {
  if (task.status === "PROCESSING")
    return <EmptyState title="No result yet">Its server has sent none so far.</EmptyState>;
  if (task.status === "WAITING") return <EmptyState title="No result yet">The task has not ended.</EmptyState>;
  return <EmptyState title="No result">The task ended without one. The attempts say why.</EmptyState>;
}

function Facts({ task, feed }: { task: Outline; feed: TaskFeed }) {
  const submission = feed.story.value?.submission;
  // Servers that report by callback have longer: the attempt says how long.
  const attempt = feed.story.value?.attempts.at(-1);
  const given = attempt?.deadline && attempt.startedAt ? (attempt.deadline - attempt.startedAt) / 1000 : null;
  const timeout = given === null ? (submission?.timeoutSeconds ?? null) : Math.round(given);
  const labels = (of: Record<string, string>) => Object.entries(of).map(([name, value]) => `${name}=${value}`);
  const isLink = readsAll.value;
  return (
    <aside class="task-facts" aria-label="Facts">
      <dl>
        <Fact name="submitted">
          <When at={task.createdAt} />
          {submission && (
            <span class="muted">
              {" "}
              by {submission.by.kind === "user" ? "" : `${submission.by.kind} `}
              <Safe text={submission.by.id} />
            </span>
          )}
        </Fact>
        <Fact name="owner">
          {isLink ? (
            <a href={href("/tasks", {}, { owner: task.owner })}>
              <Safe text={task.owner} />
            </a>
          ) : (
            <Safe text={task.owner} />
          )}
        </Fact>
        <Fact name="waited">
          <Duration from={task.createdAt} to={task.startedAt ?? task.endedAt} />
        </Fact>
        {task.startedAt !== null && (
          <Fact name="ran">
            <Duration from={task.startedAt} to={task.endedAt} />
            <span class="muted"> in all tries</span>
          </Fact>
        )}
        {task.endedAt !== null && (
          <Fact name="ended">
            <When at={task.endedAt} />
          </Fact>
        )}
        <Fact name="attempt">
          {task.attempt} of {task.attempts}
        </Fact>
        {timeout !== null && (
          <Fact name="timeout">
            <Duration seconds={timeout} />
            <span class="muted"> an attempt</span>
          </Fact>
        )}
        {task.serverId && (
          <Fact name="server">
            <ServerLink id={task.serverId} />
          </Fact>
        )}
        <Fact name="type">
          <a href={href("/types/{name}", { name: task.type })}>
            <Safe text={task.type} />
          </a>
        </Fact>
        {submission?.pool && (
          <Fact name="pool">
            <Safe text={submission.pool} />
          </Fact>
        )}
        <Fact name="priority">{task.priority}</Fact>
        {task.nextAttemptAt !== null && (
          <Fact name="next attempt">
            <When at={task.nextAttemptAt} />
          </Fact>
        )}
        {task.runAt !== null && (
          <Fact name="not before">
            <Exact at={task.runAt} />
          </Fact>
        )}
        {task.expiresAt !== null && (
          <Fact name="starts by">
            <Exact at={task.expiresAt} />
          </Fact>
        )}
        {task.deadline !== null && (
          <Fact name="ends by">
            <Exact at={task.deadline} />
          </Fact>
        )}
        {task.concurrencyKey && (
          <Fact name="key">
            <Safe text={task.concurrencyKey} />
          </Fact>
        )}
        {labels(task.require).length > 0 && (
          <Fact name="requires">
            <Safe text={labels(task.require).join(", ")} />
          </Fact>
        )}
        {labels(task.prefer).length > 0 && (
          <Fact name="prefers">
            <Safe text={labels(task.prefer).join(", ")} />
          </Fact>
        )}
        {task.dependsOn.length > 0 && (
          <Fact name="depends on">
            {task.dependsOn.slice(0, 3).map((parent) => (
              <span key={parent} class="fact-line">
                <IdLink id={parent} />
              </span>
            ))}
            {task.dependsOn.length > 3 && <span class="muted">and {count(task.dependsOn.length - 3)} more</span>}
            {task.onParentFailure !== "fail" && (
              <span class="muted fact-line">if one fails: {task.onParentFailure}</span>
            )}
          </Fact>
        )}
        {task.batchId && (
          <Fact name="batch">
            <a class="mono" href={href("/batch/{id}", { id: task.batchId })}>
              {task.batchId.split("~")[0]?.slice(-8)}
            </a>
          </Fact>
        )}
        {task.scheduleId && (
          <Fact name="schedule">
            <a href={href("/tasks", {}, { schedule: task.scheduleId })}>{task.scheduleId.split("~")[0]?.slice(-8)}</a>
          </Fact>
        )}
      </dl>
    </aside>
  );
}

function Fact({ name, children }: { name: string; children: ComponentChildren }) {
  return (
    <div class="task-fact">
      <dt>{name}</dt>
      <dd>{children}</dd>
    </div>
  );
}
