/** The state of all servers, and what became of those that are gone. */
import { useState } from "preact/hooks";
import { CleanUpDialog } from "../fleet/CleanUp.tsx";
import { poolsByServer, type Server, useGone, usePools, useRates, useServers, useTopErrors } from "../fleet/data.ts";
import { Heat } from "../fleet/Heat.tsx";
import { RestoreDialog } from "../fleet/RestoreDialog.tsx";
import { type ServerAction, ServerActionDialog } from "../fleet/ServerActions.tsx";
import {
  countStates,
  failureRate,
  filtered,
  percent,
  reasonOf,
  STATE_NAMES,
  STATES,
  sinceOf,
  stateOf,
  worstFirst,
} from "../fleet/server_state.ts";
import { Chips, FilterBar, type FilterKey } from "../parts/Chips.tsx";
import { type Column, DataTable, Pager } from "../parts/DataTable.tsx";
import { Icon } from "../parts/Icon.tsx";
import { useKeys } from "../parts/keys.ts";
import { Meter } from "../parts/Meter.tsx";
import { PageHead } from "../parts/Page.tsx";
import { ServerMark } from "../parts/ServerMark.tsx";
import { EmptyState, Problem } from "../parts/states.tsx";
import { Duration, When } from "../parts/time.tsx";
import { href, navigate, setQuery } from "../router.ts";
import type { PageProps } from "../routes.ts";
import { isAdmin } from "../session.ts";
import { count, instant } from "../text/format.ts";

const SHOWN = 200;
const GONE_HOURS = 24;

export default function Fleet({ query }: PageProps) {
  const servers = useServers();
  const gone = useGone();
  const pools = usePools(10_000);
  const rates = useRates();
  const errors = useTopErrors();
  const [selection, setSelection] = useState<ReadonlySet<string>>(new Set());
  const [acting, setActing] = useState<{ action: ServerAction; ids: string[] } | null>(null);
  const [cleaning, setCleaning] = useState(false);
  const [restoring, setRestoring] = useState<Server | null>(null);
  const [cursor, setCursor] = useState<Server | null>(null);
  const isHeat = query.get("view") === "heat";
  const admin = isAdmin.value;
  const all = servers.data ?? [];
  const inPools = poolsByServer(pools.data ?? []);
  const since = Date.now() - GONE_HOURS * 3_600_000;
  const lost = (gone.data ?? []).filter((each) => instant(each.removed?.since) > since);
  const keys: FilterKey[] = [
    {
      name: "state",
      label: "state",
      values: STATES.filter((each) => each !== "gone"),
      many: true,
      hint: "what it does",
    },
    { name: "pool", label: "pool", values: (pools.data ?? []).map((each) => each.name), hint: "whose tasks it takes" },
    { name: "provider", label: "provider", values: [...new Set(all.map((each) => each.provider))] },
    { name: "label", label: "label", hint: "gpu=a100, or a name alone" },
    { name: "text", label: "text", hint: "in id, name and reason" },
  ];
  const shown = worstFirst(
    filtered(
      all,
      {
        states: query.getAll("state"),
        pool: query.get("pool") ?? "",
        provider: query.get("provider") ?? "",
        label: query.get("label") ?? "",
        text: query.get("text") ?? "",
      },
      inPools,
    ),
  );
  const selected = [...selection].filter((id) => all.some((each) => each.id === id));
  const reload = () => {
    servers.reload();
    gone.reload();
  };
  const act = (action: ServerAction, ids: string[]) => ids.length && setActing({ action, ids });
  useKeys("Fleet", [
    { key: "h", label: "Table or heat", run: () => setQuery({ view: isHeat ? undefined : "heat" }) },
    ...(admin
      ? [
          { key: "n", label: "Register a server", run: () => navigate("#/fleet/new") },
          {
            key: "d",
            label: "Drain the selected servers, or this one",
            run: () => act("drain", selected.length ? selected : cursor ? [cursor.id] : []),
          },
        ]
      : []),
  ]);
  const columns: Column<Server>[] = [
    { id: "state", title: "State", render: (each) => <ServerMark state={stateOf(each)} /> },
    {
      id: "server",
      title: "Server",
      render: (each) => (
        <a href={href("/fleet/{id}", { id: each.id })} title={each.name}>
          {each.id}
        </a>
      ),
    },
    {
      id: "pools",
      title: "Pools",
      minor: true,
      className: "roomy",
      render: (each) => <PoolNames names={inPools.get(each.id)} />,
    },
    {
      id: "load",
      title: "Running",
      render: (each) => <Meter value={each.activeTasks} of={each.currentLimit} label="running" />,
    },
    {
      id: "p95",
      title: "Run p95",
      number: true,
      minor: true,
      className: "roomy",
      render: (each) => <Duration seconds={rates.data?.get(each.id)?.run.p95} />,
    },
    {
      id: "failed",
      title: "Failed 1 h",
      number: true,
      render: (each) => <FailedShare id={each.id} rates={rates.data?.get(each.id)} />,
    },
    {
      id: "error",
      title: "Top error",
      minor: true,
      className: "roomy",
      render: (each) => {
        const top = errors.data?.get(each.id);
        if (!top) return <span class="muted">–</span>;
        const to = { server: each.id, shape: top.error.fingerprint };
        return (
          <a href={href("/tasks", {}, to)} title={top.error.shape}>
            {top.error.kind ?? "other"} <span class="muted">{count(top.count)}</span>
          </a>
        );
      },
    },
    { id: "since", title: "Since", render: (each) => <Since server={each} /> },
    {
      id: "reason",
      title: "Reason",
      wide: true,
      render: (each) => <span title={reasonOf(each)}>{reasonOf(each)}</span>,
    },
    {
      id: "sign",
      title: "Last sign",
      number: true,
      minor: true,
      render: (each) => (
        <>
          <When at={each.lastHeartbeat} />
          {each.latencyMs != null && <span class="muted"> · {Math.round(each.latencyMs)} ms</span>}
        </>
      ),
    },
  ];
  return (
    <>
      <PageHead title="Fleet">
        <div class="choices" role="group" aria-label="View">
          <button type="button" aria-pressed={!isHeat} onClick={() => setQuery({ view: undefined })}>
            Table
          </button>
          <button type="button" aria-pressed={isHeat} onClick={() => setQuery({ view: "heat" })}>
            Heat
          </button>
        </div>
        {admin && (
          <>
            <button type="button" onClick={() => setCleaning(true)}>
              Clean up…
            </button>
            <a class="button primary" href="#/fleet/new">
              <Icon name="plus" /> Register server
            </a>
          </>
        )}
      </PageHead>
      <ul class="counts" aria-label="Servers by state">
        {countStates(all).map(([state, number]) => (
          <li key={state}>
            <a href={href("/fleet", {}, { state })}>
              <ServerMark state={state} word={`${count(number)} ${STATE_NAMES[state]}`} />
            </a>
          </li>
        ))}
        {lost.length > 0 && (
          <li>
            <button type="button" class="quiet small" onClick={() => document.getElementById("gone")?.scrollIntoView()}>
              <ServerMark state="gone" word={`${count(lost.length)} gone in ${GONE_HOURS} h`} />
            </button>
          </li>
        )}
      </ul>
      {servers.error && !servers.data && <Problem error={servers.error} onRetry={servers.reload} />}
      {(all.length > 1 || query.size > 0) && (
        <>
          <FilterBar
            keys={keys}
            placeholder="Filter: state, pool, provider, label, or text"
            onText={(text) => {
              setQuery({ text });
              return true;
            }}
          />
          <Chips keys={keys} />
        </>
      )}
      {isHeat ? (
        <Heat servers={shown} rates={rates.data} />
      ) : (
        <DataTable
          label="Servers"
          columns={columns}
          rows={servers.data && shown.slice(0, SHOWN)}
          rowKey={(each) => each.id}
          total={shown.length}
          stale={servers.isStale}
          onOpen={(each) => navigate(href("/fleet/{id}", { id: each.id }))}
          onCursor={setCursor}
          {...(admin ? { selection, onSelection: setSelection } : {})}
          empty={
            all.length ? (
              <EmptyState title="No server matches">
                <a href="#/fleet">Show all {count(all.length)}</a>
              </EmptyState>
            ) : (
              <NoServers />
            )
          }
        />
      )}
      {selected.length > 0 && (
        <div class="acting" role="toolbar" aria-label="Selected servers">
          <b>{count(selected.length)} selected</b>
          <button type="button" onClick={() => act("drain", selected)}>
            Drain…
          </button>
          <button type="button" onClick={() => act("resume", selected)}>
            Resume…
          </button>
          <button type="button" class="danger-text" onClick={() => act("remove", selected)}>
            Remove…
          </button>
          <button type="button" class="quiet" onClick={() => setSelection(new Set())}>
            Clear
          </button>
        </div>
      )}
      {all.length > 0 && (
        <Pager
          shown={
            shown.length > SHOWN
              ? `the first ${SHOWN} of ${count(shown.length)}: filter to see others`
              : `${count(shown.length)} of ${count(all.length)}`
          }
          asOf={servers.isStale ? "the service does not answer; this was before" : undefined}
        />
      )}
      {lost.length > 0 && <Gone servers={lost} onRestore={setRestoring} />}
      {acting && (
        <ServerActionDialog
          {...acting}
          onClose={() => setActing(null)}
          onDone={() => {
            setSelection(new Set());
            reload();
          }}
        />
      )}
      {restoring && <RestoreDialog server={restoring} onClose={() => setRestoring(null)} onDone={reload} />}
      {cleaning && <CleanUpDialog servers={all} onClose={() => setCleaning(false)} onDone={reload} />}
    </>
  );
}

function PoolNames({ names }: { names: string[] | undefined }) {
  if (!names?.length) return <span class="muted">–</span>;
  const [first, second, ...rest] = names;
  const text = [first, second].filter(Boolean).join(", ");
  return <span title={names.join(", ")}>{rest.length ? `${text} +${rest.length}` : text}</span>;
}

export function FailedShare({
  id,
  rates,
}: {
  id: string;
  rates?: { finished: number; failed: number; attemptsFailed: number };
}) {
  const rate = rates && failureRate(rates);
  if (!rate) return <span class="muted">–</span>;
  const text = percent(rate.share);
  if (!rate.share) return <span class="muted">{text}</span>;
  return (
    <a
      class={rate.share >= 0.2 ? "danger-text" : ""}
      href={href("/tasks", {}, { server: id, status: "FAILED", endedSince: "1h" })}
    >
      {text}
    </a>
  );
}

function Since({ server }: { server: Server }) {
  const state = stateOf(server);
  if (state === "open" && server.circuitOpenUntil)
    return (
      <span class="muted">
        next try <When at={server.circuitOpenUntil} />
      </span>
    );
  return <When at={sinceOf(server)} />;
}

function Gone({ servers, onRestore }: { servers: Server[]; onRestore: (server: Server) => void }) {
  const columns: Column<Server>[] = [
    { id: "state", title: "State", render: () => <ServerMark state="gone" /> },
    { id: "server", title: "Server", render: (each) => <a href={href("/fleet/{id}", { id: each.id })}>{each.id}</a> },
    { id: "since", title: "Since", render: (each) => <When at={each.removed?.since} /> },
    {
      id: "reason",
      title: "Reason",
      wide: true,
      render: (each) => <span title={reasonOf(each)}>{reasonOf(each)}</span>,
    },
    { id: "by", title: "By", render: (each) => `${each.removed?.by.kind ?? ""} ${each.removed?.by.id ?? ""}` },
    {
      id: "check",
      title: "Next check",
      minor: true,
      render: (each) => <When at={each.removed?.nextCheck} none={each.removed?.returns ? "soon" : "none"} />,
    },
  ];
  if (isAdmin.value)
    columns.push({
      id: "act",
      title: "Actions",
      render: (each) => (
        <button type="button" class="small" onClick={() => onRestore(each)}>
          Restore…
        </button>
      ),
    });
  return (
    <section id="gone" class="block">
      <h2>Gone in {GONE_HOURS} h</h2>
      <DataTable
        keyless
        label="Gone servers"
        columns={columns}
        rows={servers.slice(0, SHOWN)}
        rowKey={(each) => each.id}
      />
    </section>
  );
}

function NoServers() {
  return (
    <EmptyState title="No server yet">
      <p>A server runs the tasks: a model server as it is, or a program of yours with one endpoint.</p>
      {isAdmin.value ? (
        <p>
          <a class="button primary" href="#/fleet/new">
            Register the first one
          </a>
        </p>
      ) : (
        <p>An admin registers it.</p>
      )}
    </EmptyState>
  );
}
