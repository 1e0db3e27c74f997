import { useMemo, useState } from "preact/hooks";
import { get } from "../api/client.ts";
import type { Ready, Schema, Stats } from "../api/types.ts";
import { type LiveNumbers, withNow } from "../fold/numbers.ts";
import { AlarmList } from "../frame/alarms.tsx";
import { isLive, useLive } from "../live/feed.ts";
import { Chart, type Series } from "../parts/Chart.tsx";
import { useKeys } from "../parts/keys.ts";
import { Meter } from "../parts/Meter.tsx";
import { PageHead } from "../parts/Page.tsx";
import { usePoll } from "../parts/resource.ts";
import { Sparkline } from "../parts/Sparkline.tsx";
import { Shape } from "../parts/StateMark.tsx";
import { Problem, Skeleton } from "../parts/states.tsx";
import { When } from "../parts/time.tsx";
import { preferences } from "../preferences.ts";
import { href, navigate, setQuery } from "../router.ts";
import { hasPage, type PageProps } from "../routes.ts";
import { readsAll } from "../session.ts";
import { groupHref } from "../tasks/ErrorGroups.tsx";
import { StandsOut } from "../tasks/Facets.tsx";
import { clock, count, duration, plural } from "../text/format.ts";

const RANGES: [id: string, label: string][] = [
  ["1h", "1 h"],
  ["24h", "24 h"],
];
const POLL_MS: Record<string, number> = { "1h": 3000, "24h": 15_000 };

/** With live numbers: the window and the errors come from it. */
const LIVE_POLL_MS = 10_000;

type Pool = Schema<"PoolSummary">;

const total = (numbers: Record<string, number | undefined>) =>
  Object.values(numbers).reduce<number>((sum, each) => sum + (each ?? 0), 0);

export default function Overview({ query }: PageProps) {
  const from = query.get("from") ?? query.get("range") ?? "1h";
  const to = query.get("to") ?? undefined;
  const isFixed = query.has("from");
  const [asTable, setAsTable] = useState(false);
  const window = { from, to };
  const stats = usePoll(
    `stats ${from} ${to}`,
    (signal) => get<Stats>("/api/stats", { query: window, signal }),
    isFixed ? 0 : isLive.value ? LIVE_POLL_MS : (POLL_MS[from] ?? 15_000),
  );
  const [now, setNow] = useState<LiveNumbers | null>(null);
  useLive(isFixed ? null : "stats", (message) => {
    if (message.type === "stats") setNow(message as unknown as LiveNumbers);
  });
  const dead = usePoll(
    "dead letters",
    (signal) => get<Schema<"DeadLetterGroupsAnswer">>("/api/dead-letters/groups", { query: { by: "type" }, signal }),
    15_000,
  );
  const pools = usePoll(
    `pools ${readsAll.value}`,
    async (signal) =>
      readsAll.value ? (await get<Schema<"PoolPage">>("/api/pools", { query: { limit: 200 }, signal })).pools : [],
    5000,
  );
  const ready = usePoll("ready", (signal) => get<Ready>("/health/ready", { signal, quiet: true }), 10_000);
  const changes = usePoll(
    `changes ${from} ${to} ${readsAll.value}`,
    async (signal) =>
      readsAll.value
        ? (
            await get<Schema<"LogAnswer">>("/api/log", {
              query: { log: "fleet", since: from, until: to, limit: 50 },
              signal,
            })
          ).entries
        : [],
    isFixed ? 0 : 15_000,
  );
  const data = stats.data && withNow(stats.data, now);
  // From the start of the first step, so that the list is as long as the number says.
  const since = data?.from ?? from;
  const ended = { endedSince: since, endedBefore: to };
  const slots = slotsOf(pools.data);
  const tiles: Tile[] = [
    {
      label: "waiting",
      mark: "waiting",
      value: data && data.totals.waiting - data.totals.held,
      to: href("/tasks", {}, { status: "WAITING" }),
      note: data?.totals.held ? `and ${count(data.totals.held)} held` : "",
      whole: data?.totals.waiting,
    },
    {
      label: "held",
      mark: "held",
      value: data?.totals.held,
      to: `${href("/tasks", {}, { status: "WAITING" })}&hold=parents&hold=time&hold=limit`,
    },
    {
      label: "running",
      mark: "processing",
      value: data?.totals.processing,
      to: href("/tasks", {}, { status: "PROCESSING" }),
      note: slots ? `of ${plural(slots, "slot")}` : "",
    },
    {
      label: `done ${rangeName(from, isFixed)}`,
      mark: "finished",
      value: data?.window.finished,
      to: href("/tasks", {}, { status: "FINISHED", ...ended, sort: "-ended" }),
    },
    {
      label: `failed ${rangeName(from, isFixed)}`,
      mark: "failed",
      value: data?.window.failed,
      to: href("/tasks", {}, { status: "FAILED", ...ended, sort: "-ended" }),
    },
    {
      label: "dead letters",
      mark: "cancelled",
      value: dead.data?.count,
      capped: dead.data?.capped,
      to: hasPage("#/dead-letters") ? "#/dead-letters" : href("/tasks", {}, { status: "FAILED", view: "error" }),
    },
  ];
  useKeys("Overview", [
    ...tiles.map((tile, index) => ({ key: String(index + 1), label: tile.label, run: () => navigate(tile.to) })),
    { key: "a", label: "Attention", run: () => document.getElementById("attention")?.focus() },
    { key: "e", label: "Errors", run: () => navigate(href("/tasks", {}, { view: "error", endedSince: "1h" })) },
    { key: "v", label: "Charts as tables", run: () => setAsTable(!asTable) },
    {
      key: "t",
      label: "The other range",
      run: () => setQuery({ range: from === "1h" ? "24h" : undefined, from: undefined, to: undefined }),
    },
  ]);
  if (stats.error && !data)
    return (
      <>
        <PageHead title="Overview" />
        <AlarmList />
        <Problem error={stats.error} onRetry={stats.reload} />
      </>
    );
  const isEmpty = data && data.totals.tasks === 0 && data.window.submitted === 0;
  return (
    <>
      <PageHead title="Overview">
        <div class="choices" role="group" aria-label="Range">
          {RANGES.map(([id, label]) => (
            <button
              key={id}
              type="button"
              aria-pressed={!isFixed && from === id}
              onClick={() => setQuery({ range: id === "1h" ? undefined : id, from: undefined, to: undefined })}
            >
              {label}
            </button>
          ))}
          {isFixed && (
            <button type="button" aria-pressed="true" onClick={() => setQuery({ from: undefined, to: undefined })}>
              {clock(Date.parse(from), preferences.value.zone).slice(0, 5)}–
              {to && clock(Date.parse(to), preferences.value.zone).slice(0, 5)} ×
            </button>
          )}
        </div>
      </PageHead>
      <AlarmList />
      <Tiles tiles={tiles} stale={stats.isStale} />
      {isEmpty ? (
        <FirstSteps />
      ) : data ? (
        <Charts stats={data} changes={changes.data ?? []} asTable={asTable} onTable={() => setAsTable(!asTable)} />
      ) : (
        <Skeleton rows={6} />
      )}
      <div class="overview-lists">
        <TopErrors stats={data} since={since} before={to} />
        {readsAll.value ? <Changes changes={changes.data} error={changes.error} /> : null}
        {readsAll.value ? <Pools pools={pools.data} ready={ready.data} error={pools.error} /> : null}
      </div>
      <p class="muted meta">
        {data && (
          <>
            As of {clock(Date.parse(data.readAt), preferences.value.zone)}
            {data.lagEvents > 0 && `, the index lacks ${plural(data.lagEvents, "event")}`}
            {ready.data?.storage?.percent != null && `, store ${ready.data.storage.percent} % full`}
          </>
        )}
      </p>
    </>
  );
}

function rangeName(from: string, isFixed: boolean): string {
  return isFixed ? "in range" : from === "1h" ? "1 h" : "24 h";
}

/** Slots of all servers that can get tasks; a server of several pools counts once. */
function slotsOf(pools: Pool[] | undefined): number {
  const servers = new Map<string, number>();
  for (const pool of pools ?? [])
    for (const server of pool.servers) if (server.available) servers.set(server.id, server.running + server.room);
  return [...servers.values()].reduce((sum, each) => sum + each, 0);
}

interface Tile {
  label: string;
  mark: "waiting" | "held" | "processing" | "finished" | "failed" | "cancelled";
  value: number | undefined;
  to: string;
  note?: string;
  capped?: boolean;
  whole?: number;
}

function Tiles({ tiles, stale }: { tiles: Tile[]; stale: boolean }) {
  return (
    <ul class={`tiles ${stale ? "stale" : ""}`} aria-label="Tasks now">
      {tiles.map((tile) => (
        <li key={tile.label}>
          <a class="tile card" href={tile.to}>
            <span class={`tile-label state-${tile.mark}`}>
              <Shape mark={tile.mark} /> {tile.label}
            </span>
            <span class="tile-number number">
              {(tile.whole ?? tile.value) === undefined ? "–" : count(tile.whole ?? tile.value ?? 0)}
              {tile.capped && "+"}
            </span>
            <span class="muted meta">{tile.note}</span>
          </a>
        </li>
      ))}
    </ul>
  );
}

type Change = Schema<"LogEntryInfo">;

function Charts({
  stats,
  changes,
  asTable,
  onTable,
}: {
  stats: Stats;
  changes: Change[];
  asTable: boolean;
  onTable: () => void;
}) {
  const marks = useMemo(() => changes.map((change) => Date.parse(change.at)), [changes]);
  const times = stats.series.map((point) => Date.parse(point.at));
  const of = (pick: (point: Stats["series"][number]) => number | null) => stats.series.map(pick);
  const flow: Series[] = [
    { label: "finished", values: of((point) => point.finished), tone: "finished" },
    { label: "failed", values: of((point) => point.failed), tone: "failed", below: true },
  ];
  const depth: Series[] = [
    { label: "waiting", values: of((point) => point.waiting), tone: "waiting", kind: "line" },
    { label: "running", values: of((point) => point.running), tone: "processing", kind: "line" },
  ];
  const waits: Series[] = [
    { label: "wait p50", values: of((point) => point.wait.p50), tone: "waiting", kind: "line" },
    { label: "wait p95", values: of((point) => point.wait.p95), tone: "waiting", kind: "dashed" },
    { label: "run p50", values: of((point) => point.run.p50), tone: "processing", kind: "line" },
    { label: "run p95", values: of((point) => point.run.p95), tone: "processing", kind: "dashed" },
  ];
  const range = (from: number, to: number) =>
    setQuery({ from: new Date(from).toISOString(), to: new Date(to).toISOString(), range: undefined });
  const step = stats.step === 60 ? "minute" : duration(stats.step);
  const { window } = stats;
  return (
    <section aria-label="Charts">
      <div class="charts">
        <Chart
          title={`Ended per ${step}`}
          summary={`${plural(window.finished, "task")} finished and ${count(window.failed)} failed in the range`}
          times={times}
          series={flow}
          marks={marks}
          asTable={asTable}
          onRange={range}
        />
        <Chart
          title="Waiting and running"
          summary={`${count(stats.totals.waiting)} wait and ${count(stats.totals.processing)} run now`}
          times={times}
          series={depth}
          asTable={asTable}
          onRange={range}
        />
        <Chart
          title="Wait and run time"
          summary={`median wait ${duration(window.wait.p50 ?? Number.NaN)}, median run ${duration(window.run.p50 ?? Number.NaN)}`}
          times={times}
          series={waits}
          asTable={asTable}
          onRange={range}
          format={duration}
          log
        />
      </div>
      <p class="meta muted">
        wait p50 {duration(window.wait.p50 ?? Number.NaN)} · p95 {duration(window.wait.p95 ?? Number.NaN)} · run p50{" "}
        {duration(window.run.p50 ?? Number.NaN)} · p95 {duration(window.run.p95 ?? Number.NaN)}{" "}
        <button type="button" class="small" aria-pressed={asTable} onClick={onTable}>
          {asTable ? "Charts" : "As tables"}
        </button>
      </p>
    </section>
  );
}

function TopErrors({ stats, since, before }: { stats: Stats | undefined; since: string; before: string | undefined }) {
  const errors = stats?.errors ?? [];
  const query = new URLSearchParams({ endedSince: since, ...(before && { endedBefore: before }) });
  const failures = new URLSearchParams(query);
  failures.set("status", "FAILED");
  return (
    <section class="card" aria-label="Top errors">
      <h2>
        <a href={href("/tasks", {}, { view: "error", endedSince: since, endedBefore: before })}>Top errors</a>
        {stats?.errorCount ? <span class="muted"> · {plural(stats.errorCount, "failed attempt")}</span> : null}
      </h2>
      {!stats ? (
        <Skeleton rows={4} />
      ) : errors.length === 0 ? (
        <p class="muted">No attempt failed in this time.</p>
      ) : (
        <table class="data">
          <tbody>
            {errors.slice(0, 8).map((group) => (
              <tr key={group.fingerprint}>
                <td class="number">{count(group.count)}</td>
                <td class="wide">
                  <a href={groupHref(group, query)} title={group.example?.error ?? group.shape}>
                    {group.kind && <b>{group.kind}</b>} {group.shape}
                  </a>
                </td>
                <td>
                  <Sparkline values={group.trend} label={`${group.count} failures over time`} />
                </td>
              </tr>
            ))}
          </tbody>
        </table>
      )}
      {stats && stats.window.failed > 0 && <StandsOut filter={failures} />}
    </section>
  );
}

function Pools({ pools, ready, error }: { pools: Pool[] | undefined; ready: Ready | undefined; error: Error | null }) {
  if (error && !pools) return <Problem error={error} />;
  const shown = [...(pools ?? [])]
    .sort((a, b) => total(b.waiting) - total(a.waiting) || a.name.localeCompare(b.name))
    .slice(0, 8);
  return (
    <section class="card" aria-label="Pools">
      <h2>
        {hasPage("#/pools") ? <a href="#/pools">Pools</a> : "Pools"}
        {ready && (
          <span class="muted">
            {" · "}
            {hasPage("#/fleet") ? <a href="#/fleet">{fleetWords(ready)}</a> : fleetWords(ready)}
          </span>
        )}
      </h2>
      {!pools ? (
        <Skeleton rows={4} />
      ) : (
        <table class="data">
          <thead>
            <tr>
              <th scope="col">Pool</th>
              <th scope="col" class="number">
                Waiting
              </th>
              <th scope="col">Running</th>
              <th scope="col" class="number">
                Oldest
              </th>
            </tr>
          </thead>
          <tbody>
            {shown.map((pool) => {
              const open = pool.servers.filter((server) => server.available);
              const running = open.reduce((sum, server) => sum + server.running, 0);
              const room = open.reduce((sum, server) => sum + server.room, 0);
              return (
                <tr key={pool.name}>
                  <th scope="row">
                    <a href={href("/tasks", {}, { pool: pool.name, status: "WAITING" })}>{pool.name}</a>
                    {pool.pause && (
                      <span class="state state-warning" title={`${pool.pause.by}: ${pool.pause.reason}`}>
                        <Shape mark="warning" /> paused
                      </span>
                    )}
                  </th>
                  <td class="number">{count(total(pool.waiting))}</td>
                  <td>
                    {open.length ? (
                      <Meter value={running} of={running + room} label={`slots of ${pool.name}`} />
                    ) : (
                      <span class="muted">no server</span>
                    )}
                  </td>
                  <td class="number">
                    <When at={pool.oldestWaiting} />
                  </td>
                </tr>
              );
            })}
          </tbody>
        </table>
      )}
    </section>
  );
}

const CHANGES_SHOWN = 8;

/** `ServerWentOffline`: server went offline. */
const inWords = (event: string) => event.replace(/(?!^)([A-Z])/g, " $1").toLowerCase();

const PAGES: Record<string, string> = { server: "/fleet/{id}", type: "/types/{id}" };

/** What changed in the range: servers, types, pauses and limits. The diamonds of the chart. */
function Changes({ changes, error }: { changes: Change[] | undefined; error: Error | null }) {
  if (error && !changes) return <Problem error={error} />;
  return (
    <section class="card" aria-label="Changes">
      <h2>{hasPage("#/log") ? <a href={href("/log", {}, { log: "fleet" })}>Changes</a> : "Changes"}</h2>
      {!changes ? (
        <Skeleton rows={4} />
      ) : changes.length === 0 ? (
        <p class="muted">No server, type, pool or limit changed in this time.</p>
      ) : (
        <table class="data">
          <tbody>
            {changes.slice(0, CHANGES_SHOWN).map((change) => {
              const page = PAGES[change.subject.kind];
              return (
                <tr key={change.sequence}>
                  <td class="number">
                    <When at={change.at} />
                  </td>
                  <td>
                    {page ? (
                      <a href={href(page, { id: change.subject.id })}>{change.subject.id}</a>
                    ) : (
                      `${change.subject.kind} ${change.subject.id}`
                    )}
                  </td>
                  <td class="wide">{inWords(change.event)}</td>
                  <td class="muted">{change.by.kind === "user" ? change.by.id : change.by.kind}</td>
                </tr>
              );
            })}
          </tbody>
        </table>
      )}
    </section>
  );
}

function fleetWords({ servers }: Ready): string {
  const parts = [`${servers.online ?? 0} online`];
  if (servers.offline) parts.push(`${servers.offline} offline`);
  if (servers.maintenance) parts.push(`${servers.maintenance} in maintenance`);
  if (servers.circuit_open) parts.push(`${plural(servers.circuit_open, "circuit")} open`);
  return parts.join(", ");
}

function FirstSteps() {
  const api = new URL("../api", document.baseURI).href;
  return (
    <section class="card first-steps" aria-label="First steps">
      <h2>An empty service: three steps</h2>
      <ol>
        <li>
          <p>Register a server: the address of a backend that runs tasks.</p>
          <code class="pre">{`curl -sS -H "Authorization: Bearer $TOKEN" ${api}/servers --json \\
  '{"id": "gpu-1", "name": "gpu-1", "provider": "local", "endpoints": {"predict": "http://127.0.0.1:9000/predict"}}'`}</code>
        </li>
        <li>
          <p>Submit a task.</p>
          <code class="pre">{`curl -sS -H "Authorization: Bearer $TOKEN" ${api}/task --json '{"payload": {"text": "hello"}}'`}</code>
        </li>
        <li>
          <p>
            Watch it in <a href="#/tasks">the list of tasks</a>.
          </p>
        </li>
      </ol>
    </section>
  );
}
