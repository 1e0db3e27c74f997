/** One server: what is wrong with it, what it runs, what failed on it, and its history. */
import { useRef, useState } from "preact/hooks";
import { type ApiError, get } from "../api/client.ts";
import type { Schema, TaskPage, TaskSummary } from "../api/types.ts";
import { poolsByServer, type Server, usePools } from "../fleet/data.ts";
import { Evidence } from "../fleet/Evidence.tsx";
import { Marked } from "../fleet/Marked.tsx";
import { Bars, Facts, Figures } from "../fleet/Rates.tsx";
import { RestoreDialog } from "../fleet/RestoreDialog.tsx";
import { type ServerAction, ServerActionDialog } from "../fleet/ServerActions.tsx";
import { actorText, said } from "../fleet/server_events.ts";
import { reasonOf, sinceOf, stateOf } from "../fleet/server_state.ts";
import { TryDialog } from "../fleet/TryDialog.tsx";
import { type Column, DataTable } from "../parts/DataTable.tsx";
import { IdLink } from "../parts/IdLink.tsx";
import { useKeys } from "../parts/keys.ts";
import { Menu } from "../parts/Menu.tsx";
import { Meter } from "../parts/Meter.tsx";
import { PageHead } from "../parts/Page.tsx";
import { usePoll } from "../parts/resource.ts";
import { ServerMark } from "../parts/ServerMark.tsx";
import { StateMark } from "../parts/StateMark.tsx";
import { EmptyState, Problem, Skeleton } from "../parts/states.tsx";
import { Trend } from "../parts/Trend.tsx";
import { Duration, When } from "../parts/time.tsx";
import { href, navigate, setQuery } from "../router.ts";
import type { PageProps } from "../routes.ts";
import { isAdmin } from "../session.ts";
import { count, duration } from "../text/format.ts";

const RANGES = ["1h", "6h", "24h", "7d"];
const RUNNING_SHOWN = 20;
const EVENTS_SHOWN = 30;

/** Return a server, also one that is gone. `wasGone`: look there first. */
async function readServer(id: string, wasGone: boolean, signal: AbortSignal): Promise<Server> {
  const known = wasGone ? await readGone(id, signal) : undefined;
  if (known) return known;
  try {
    return await get<Server>(`/api/servers/${encodeURIComponent(id)}`, { signal });
  } catch (error) {
    if ((error as ApiError).status !== 404 || wasGone) throw error;
    const gone = await readGone(id, signal);
    if (!gone) throw error;
    return gone;
  }
}

async function readGone(id: string, signal: AbortSignal): Promise<Server | undefined> {
  const page = await get<Schema<"ServerPage">>("/api/servers", { signal, query: { removed: true } });
  return page.servers.find((each) => each.id === id);
}

export default function ServerPage({ params, query }: PageProps) {
  const id = params.id ?? "";
  const wasGone = useRef(false);
  const server = usePoll(
    `server ${id}`,
    async (signal) => {
      const found = await readServer(id, wasGone.current, signal);
      wasGone.current = found.removed !== null;
      return found;
    },
    3000,
  );
  const [acting, setActing] = useState<ServerAction | null>(null);
  const [trying, setTrying] = useState(false);
  const [restoring, setRestoring] = useState(false);
  const range = query.get("range") ?? "1h";
  const admin = isAdmin.value;
  const found = server.data;
  const state = found && stateOf(found);
  const isGone = state === "gone";
  const edit = () => navigate(href("/fleet/{id}/edit", { id }));
  useKeys(
    "Server",
    admin && found && !isGone
      ? [
          { key: "d", label: "Drain", run: () => setActing("drain") },
          { key: "Shift+r", label: "Resume", run: () => setActing("resume") },
          { key: "e", label: "Edit", run: edit },
        ]
      : [],
  );
  if (!found || !state)
    return (
      <>
        <PageHead title={id} />
        {server.error ? (
          <Problem error={server.error} onRetry={server.reload} />
        ) : (
          <Skeleton rows={6} label={`Loading: ${id}`} />
        )}
      </>
    );
  const called = found.mode === "push";
  return (
    <>
      <PageHead
        title={
          <>
            <a class="up" href="#/fleet">
              Fleet
            </a>{" "}
            {id}
          </>
        }
        sub={[found.name !== id && found.name, found.provider, dialectText(found)].filter(Boolean).join(" · ")}
      >
        {admin && isGone && (
          <>
            <button type="button" class="primary" onClick={() => setRestoring(true)}>
              Restore…
            </button>
            <a class="button" href={href("/fleet/new", {}, { like: id })}>
              Register again…
            </a>
          </>
        )}
        {admin && !isGone && (
          <>
            {called && (
              <button type="button" onClick={() => setTrying(true)}>
                Try…
              </button>
            )}
            {found.maintenance ? (
              <button type="button" class="primary" onClick={() => setActing("resume")}>
                Resume…
              </button>
            ) : (
              <button type="button" onClick={() => setActing("drain")}>
                Drain…
              </button>
            )}
            <a class="button" href={href("/fleet/{id}/edit", { id })}>
              Edit
            </a>
            <Menu
              icon
              label="More actions"
              items={[
                ...(called ? [{ label: "Detect what it speaks…", onSelect: () => setActing("detect") }] : []),
                { label: "Remove…", danger: true, onSelect: () => setActing("remove") },
              ]}
            />
          </>
        )}
      </PageHead>
      {server.error && <Problem error={server.error} onRetry={server.reload} />}
      <div class={`standing standing-${state}`}>
        <ServerMark state={state} /> <span class="pre">{reasonOf(found)}</span>
        <span class="muted">
          {state === "open" && found.circuitOpenUntil ? (
            <>
              next try <When at={found.circuitOpenUntil} />
            </>
          ) : (
            <>
              since <When at={sinceOf(found)} />
            </>
          )}
          {found.maintenance && !found.activeTasks && !isGone && " · drained: nothing runs on it"}
          {isGone && found.removed?.by.kind !== "user" && ` · by ${actorText(found.removed?.by ?? {})}`}
        </span>
      </div>
      <div class="columns">
        <Now server={found} />
        <section class="card">
          <header class="card-head">
            <h2>Rates</h2>
            <div class="choices" role="group" aria-label="Range">
              {RANGES.map((each) => (
                <button
                  key={each}
                  type="button"
                  class="small"
                  aria-pressed={each === range}
                  onClick={() => setQuery({ range: each === "1h" ? undefined : each }, { replace: true })}
                >
                  {each}
                </button>
              ))}
            </div>
          </header>
          <ServerRates id={id} range={range} />
        </section>
      </div>
      <Running id={id} total={found.activeTasks} />
      <Failures id={id} range={range} />
      <div class="columns">
        <History id={id} />
        <Settings server={found} />
      </div>
      {acting && (
        <ServerActionDialog action={acting} ids={[id]} onClose={() => setActing(null)} onDone={server.reload} />
      )}
      {restoring && <RestoreDialog server={found} onClose={() => setRestoring(false)} onDone={server.reload} />}
      {trying && (
        <TryDialog
          title={`Try ${id}`}
          path={`/api/servers/${encodeURIComponent(id)}/try`}
          types={found.types}
          onClose={() => setTrying(false)}
        />
      )}
    </>
  );
}

function dialectText(server: Server): string {
  if (server.mode === "pull") return "fetches its tasks";
  const found = server.dialectDetected;
  const what = server.preset ?? server.dialect ?? "dialect of the type";
  if (!found) return what;
  return `${what}: ${found.preset ?? found.dialect}${found.program ? ` (${found.program})` : ""}`;
}

function Now({ server }: { server: Server }) {
  const pools = usePools(10_000);
  const names = poolsByServer(pools.data ?? []).get(server.id) ?? [];
  const facts: Parameters<typeof Facts>[0]["facts"] = [
    ["running", <Meter key="m" value={server.activeTasks} of={server.currentLimit} label="running" />],
    ["last sign", <When key="w" at={server.lastHeartbeat} none="none yet" />],
  ];
  if (server.latencyMs != null) facts.push(["latency", `${Math.round(server.latencyMs)} ms`]);
  if (server.currentLimit < server.maxConcurrent)
    facts.push(["limit now", `${server.currentLimit} of ${server.maxConcurrent}`]);
  if (server.nextTryAt) facts.push(["next task", <When key="n" at={server.nextTryAt} />]);
  if (server.openAsks != null) facts.push(["workers asking", count(server.openAsks)]);
  if (server.reportedActiveTasks != null) facts.push(["says it runs", count(server.reportedActiveTasks)]);
  facts.push([
    "pools",
    names.length ? (
      names.map((name, index) => (
        <span key={name}>
          {index > 0 && ", "}
          <a href={href("/pools", {}, { pool: name })}>{name}</a>
        </span>
      ))
    ) : (
      <span class="muted">none</span>
    ),
  ]);
  for (const [name, value] of Object.entries(server.metrics ?? {}))
    facts.push([name, typeof value === "object" ? JSON.stringify(value) : String(value)]);
  return (
    <section class="card">
      <h2>Now</h2>
      <Facts facts={facts} />
    </section>
  );
}

function ServerRates({ id, range }: { id: string; range: string }) {
  const stats = usePoll(
    `rates ${id} ${range}`,
    (signal) =>
      get<Schema<"StatsAnswer">>("/api/stats", { signal, query: { server: id, from: range, step: STEPS[range] } }),
    15_000,
  );
  if (!stats.data) return stats.error ? <Problem error={stats.error} /> : <Skeleton rows={3} />;
  return (
    <>
      <Bars stats={stats.data} label={`The last ${range}`} />
      <Figures stats={stats.data} />
    </>
  );
}

const STEPS: Record<string, string> = { "1h": "1m", "6h": "1h", "24h": "1h", "7d": "6h" };

function Running({ id, total }: { id: string; total: number }) {
  const tasks = usePoll(`running ${id}`, (signal) =>
    get<TaskPage>("/api/tasks", { signal, query: { server: id, status: "PROCESSING", limit: RUNNING_SHOWN } }),
  );
  const rows = tasks.data?.tasks;
  if (!rows?.length && !total) return null;
  const columns: Column<TaskSummary>[] = [
    { id: "state", title: "State", render: (each) => <StateMark mark="processing" progress={each.progress} /> },
    { id: "id", title: "Task", render: (each) => <IdLink id={each.id} /> },
    { id: "type", title: "Type", render: (each) => each.type },
    { id: "owner", title: "Owner", minor: true, render: (each) => each.owner },
    { id: "attempt", title: "Try", number: true, render: (each) => `${each.attempt}/${each.attempts}` },
    { id: "run", title: "Runs for", number: true, render: (each) => <Duration from={each.startedAt} /> },
    { id: "message", title: "Progress", wide: true, render: (each) => each.message ?? "" },
  ];
  return (
    <section class="block">
      <h2>
        Running now{" "}
        <a class="meta" href={href("/tasks", {}, { server: id, status: "PROCESSING" })}>
          {count(Math.max(total, rows?.length ?? 0))}
        </a>
      </h2>
      <DataTable
        label="Running tasks"
        columns={columns}
        rows={rows}
        rowKey={(each) => each.id}
        onOpen={(each) => navigate(href("/task/{id}", { id: each.id }))}
      />
    </section>
  );
}

function Failures({ id, range }: { id: string; range: string }) {
  const errors = usePoll(
    `failures ${id} ${range}`,
    (signal) => get<Schema<"ErrorPage">>("/api/errors", { signal, query: { server: id, since: range, limit: 10 } }),
    15_000,
  );
  const page = errors.data;
  type Row = Schema<"ErrorSummary">;
  const columns: Column<Row>[] = [
    { id: "count", title: "Attempts", number: true, render: (each) => count(each.count) },
    { id: "kind", title: "Kind", render: (each) => <Marked mark="failed" word={each.kind ?? "other"} /> },
    {
      id: "shape",
      title: "Error",
      wide: true,
      render: (each) => (
        <a href={href("/tasks", {}, { server: id, shape: each.fingerprint })} title={each.example?.error ?? each.shape}>
          {each.shape || "–"}
        </a>
      ),
    },
    { id: "final", title: "Failed tasks", number: true, minor: true, render: (each) => count(each.final) },
    {
      id: "trend",
      title: "Trend",
      minor: true,
      render: (each) => <Trend values={each.trend.slice(-30)} label="Failures" />,
    },
    { id: "last", title: "Last", number: true, render: (each) => <When at={each.last} /> },
  ];
  return (
    <section class="block">
      <h2>Failures by error, {range}</h2>
      {errors.error && !page && <Problem error={errors.error} />}
      <DataTable
        keyless
        label="Failures by error"
        columns={columns}
        rows={page?.errors}
        rowKey={(each) => each.fingerprint}
        empty={<p class="muted">No attempt failed on it.</p>}
      />
      {page && page.groups > page.errors.length && (
        <p class="muted">{count(page.groups - page.errors.length)} more errors, less frequent.</p>
      )}
    </section>
  );
}

function History({ id }: { id: string }) {
  const [before, setBefore] = useState("end");
  const events = usePoll(
    `history ${id} ${before}`,
    (signal) =>
      get<Schema<"ServerEventPage">>(`/api/servers/${encodeURIComponent(id)}/events`, {
        signal,
        query: { before, limit: EVENTS_SHOWN },
      }),
    before === "end" ? 10_000 : 0,
  );
  const page = events.data;
  return (
    <section class="card">
      <h2>History {page && <span class="meta muted">{count(page.total)} events</span>}</h2>
      {events.error && !page && <Problem error={events.error} />}
      {!page && !events.error && <Skeleton rows={5} />}
      {page && !page.events.length && <EmptyState title="No event" />}
      <ol class="history">
        {page?.events.map((each) => {
          const { text, tone } = said(each.event as Record<string, unknown>);
          return (
            <li key={each.sequence} class={`history-${tone}`}>
              <span class="muted number">
                <When at={each.at} />
              </span>
              <span>{text}</span>
              <span class="muted meta" title={`event ${each.sequence}, cause ${each.cause}`}>
                by {actorText(each.by)}
              </span>
            </li>
          );
        })}
      </ol>
      {page && (page.nextBefore || before !== "end") && (
        <p class="page-actions">
          {before !== "end" && (
            <button type="button" class="small" onClick={() => setBefore("end")}>
              Newest
            </button>
          )}
          {page.nextBefore && (
            <button type="button" class="small" onClick={() => setBefore(String(page.nextBefore))}>
              Older
            </button>
          )}
        </p>
      )}
    </section>
  );
}

function Settings({ server }: { server: Server }) {
  const text = (value: string | null | undefined, none: string) => value || <span class="muted">{none}</span>;
  const answers = server.callback ? "202, and reports later" : server.async ? "at once, or later" : "at once";
  const removal =
    server.removeAfter === undefined
      ? "as the service says"
      : server.removeAfter === null
        ? "never"
        : `after ${duration(server.removeAfter)} offline`;
  const facts: Parameters<typeof Facts>[0]["facts"] = [
    ["tasks to", <code key="p">{text(server.endpoints.predict, "none: it fetches them")}</code>],
    ["health", <code key="h">{text(server.endpoints.health, "by its dialect, or heartbeats")}</code>],
    ["answers", answers],
    ["types", text(server.types.join(", "), "all")],
    ["at once", count(server.maxConcurrent)],
    ["weight", count(server.weight)],
    [
      "labels",
      text(
        Object.entries(server.labels)
          .map(([name, value]) => `${name}=${value}`)
          .join(", "),
        "none",
      ),
    ],
    ["API key", server.hasApiKey ? `stored, sent in ${server.authHeader ?? "Authorization"}` : "none"],
    ["models", text(server.servedModels?.join(", "), server.models ? "none found yet" : "not chosen by model")],
    ["takes work", overflowText(server)],
    ["removed", removal],
    ["busy statuses", text(server.busyStatus.join(", "), "none")],
    ["registered", <When key="r" at={server.registeredAt} />],
  ];
  return (
    <section class="card">
      <h2>Settings</h2>
      <Facts facts={facts} />
      {server.exchange && (
        <details>
          <summary>exchange{server.preset ? ` of the preset ${server.preset}` : ""}</summary>
          <pre class="code" tabIndex={0}>
            {JSON.stringify(server.exchange, null, 2)}
          </pre>
        </details>
      )}
      {server.dialectDetected && (
        <details>
          <summary>how its dialect was found</summary>
          <Evidence evidence={server.dialectDetected.evidence} />
        </details>
      )}
    </section>
  );
}

function overflowText(server: Server): string {
  const { overflow } = server;
  if (!overflow) return "whenever it has a free slot";
  const parts = [
    overflow.waiting != null && `more than ${count(overflow.waiting)} wait`,
    overflow.oldest != null && `one has waited ${duration(overflow.oldest)}`,
  ];
  return `only if ${parts.filter(Boolean).join(", or ")}`;
}
