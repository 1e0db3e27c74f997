/** Where work queues, who may take it, and by which rules. */
import { useState } from "preact/hooks";
import { get, post } from "../api/client.ts";
import type { Schema } from "../api/types.ts";
import { type Pool, usePools } from "../fleet/data.ts";
import { Marked } from "../fleet/Marked.tsx";
import { holdOf, slotsOf, sum, waitingFor } from "../fleet/reasons.ts";
import { rulesText } from "../fleet/type_form.ts";
import { type Column, DataTable } from "../parts/DataTable.tsx";
import { ConfirmDialog } from "../parts/Dialog.tsx";
import { Icon } from "../parts/Icon.tsx";
import { useKeys } from "../parts/keys.ts";
import { Meter } from "../parts/Meter.tsx";
import { PageHead } from "../parts/Page.tsx";
import { usePoll } from "../parts/resource.ts";
import { EmptyState, Problem } from "../parts/states.tsx";
import { When } from "../parts/time.tsx";
import { toast } from "../parts/toasts.tsx";
import { href, navigate } from "../router.ts";
import type { PageProps } from "../routes.ts";
import { isAdmin, readsAll } from "../session.ts";
import { count } from "../text/format.ts";

export type TaskType = Schema<"TypeSummary">;
export interface Pausing {
  what: "pool" | "type";
  name: string;
  resume: boolean;
  /** Said in the dialog: what it holds back. */
  says: string;
}

export const useTypes = () =>
  usePoll(
    "types",
    async (signal) =>
      (
        await get<Schema<"TypePage">>("/api/types", {
          signal,
          query: { use: readsAll.peek() || undefined, limit: 200 },
        })
      ).types,
    10_000,
  );

export default function Pools({ query }: PageProps) {
  const [pausing, setPausing] = useState<Pausing | null>(null);
  const [reloads, setReloads] = useState(0);
  return (
    <>
      <PageHead title="Pools and types">
        {isAdmin.value && (
          <a class="button" href="#/types">
            <Icon name="plus" /> New type
          </a>
        )}
      </PageHead>
      {readsAll.value && <PoolTable key={`pools ${reloads}`} only={query.get("pool")} onPause={setPausing} />}
      <TypeTable key={`types ${reloads}`} onPause={setPausing} />
      {pausing && <PauseDialog {...pausing} onClose={() => setPausing(null)} onDone={() => setReloads(reloads + 1)} />}
    </>
  );
}

function PoolTable({ only, onPause }: { only: string | null; onPause: (pausing: Pausing) => void }) {
  const pools = usePools();
  const [cursor, setCursor] = useState<Pool | null>(null);
  const admin = isAdmin.value;
  const pause = (pool: Pool) => {
    const { running } = slotsOf(pool.servers);
    onPause({
      what: "pool",
      name: pool.name,
      resume: pool.pause !== null,
      says: pool.pause
        ? `${count(sum(pool.waiting))} tasks wait here. They start as slots are free.`
        : `${count(sum(pool.waiting))} tasks wait here and go on waiting. New ones are accepted. The ${count(running)} that run on its servers go on.`,
    });
  };
  useKeys("Pools", admin ? [{ key: "p", label: "Pause or resume the pool", run: () => cursor && pause(cursor) }] : []);
  const shown = pools.data?.filter((each) => !only || each.name === only);
  const columns: Column<Pool>[] = [
    {
      id: "name",
      title: "Pool",
      render: (each) => (
        <a href={href("/tasks", {}, { pool: each.name, status: "WAITING" })} title="Its waiting tasks">
          {each.name}
        </a>
      ),
    },
    { id: "state", title: "State", render: (each) => <PauseState pause={each.pause} /> },
    { id: "waiting", title: "Waiting", number: true, render: (each) => <Waiting pool={each} /> },
    { id: "for", title: "For", wide: true, render: (each) => <Reasons pool={each} /> },
    { id: "oldest", title: "Oldest", number: true, render: (each) => <When at={each.oldestWaiting} /> },
    {
      id: "slots",
      title: "Slots in use",
      render: (each) => {
        const { running, slots } = slotsOf(each.servers);
        return <Meter value={running} of={slots} label={`slots of ${each.name}`} />;
      },
    },
    {
      id: "servers",
      title: "Servers",
      number: true,
      render: (each) => {
        const { available } = slotsOf(each.servers);
        return (
          <a class={available ? "" : "danger-text"} href={href("/fleet", {}, { pool: each.name })}>
            {available} of {each.serverCount}
          </a>
        );
      },
    },
    {
      id: "types",
      title: "Types",
      minor: true,
      className: "roomier",
      render: (each) => (
        <span title={each.types.join(", ")}>
          {each.types.slice(0, 3).join(", ")}
          {each.types.length > 3 && ` +${each.types.length - 3}`}
          {each.pausedTypes.length > 0 && <span class="muted"> ({each.pausedTypes.length} paused)</span>}
        </span>
      ),
    },
  ];
  columns.splice(6, 0, {
    id: "rate",
    title: "Starts/min",
    number: true,
    minor: true,
    className: "roomier",
    render: (each) => rate(each.startsPerMinute),
  });
  if (admin)
    columns.push({
      id: "act",
      title: "Actions",
      render: (each) => (
        <button type="button" class="small" onClick={() => pause(each)}>
          {each.pause ? "Resume…" : "Pause…"}
        </button>
      ),
    });
  return (
    <section class="block">
      <h2>
        Pools{" "}
        {only && (
          <a class="meta" href="#/pools">
            show all
          </a>
        )}
      </h2>
      {pools.error && !pools.data && <Problem error={pools.error} onRetry={pools.reload} />}
      <DataTable
        label="Pools"
        columns={columns}
        rows={shown}
        rowKey={(each) => each.name}
        stale={pools.isStale}
        onCursor={setCursor}
        onOpen={(each) => navigate(href("/tasks", {}, { pool: each.name, status: "WAITING" }))}
        empty={<EmptyState title={only ? `There is no pool ${only}` : "No pool"} />}
      />
    </section>
  );
}

const rate = (perMinute: number | null | undefined) =>
  perMinute == null ? <span class="muted">–</span> : String(Number(perMinute.toFixed(perMinute < 10 ? 1 : 0)));

function Waiting({ pool }: { pool: Pool }) {
  const { high = 0, normal = 0, low = 0 } = pool.waiting as Record<string, number>;
  const total = sum(pool.waiting);
  if (!total) return <span class="muted">0</span>;
  return (
    <a
      href={href("/tasks", {}, { pool: pool.name, status: "WAITING" })}
      title={`priority high ${count(high)}, normal ${count(normal)}, low ${count(low)}`}
    >
      {count(total)}
    </a>
  );
}

function Reasons({ pool }: { pool: Pool }) {
  const found = waitingFor(pool.waitingFor);
  const pause = pool.pause?.reason;
  if (!found.length && !pause) return <span class="muted">–</span>;
  const all = [...(pause ? [`paused: ${pause}`] : []), ...found.map((each) => `${each.count} for ${each.text}`)];
  return (
    <span title={all.join(" · ")}>
      {pause && (
        <>
          “{pause}”{found.length > 0 && " · "}
        </>
      )}
      {found.map(({ reason, text, count: number, needsHelp }, index) => {
        const hold = holdOf(reason);
        const words = `${count(number)} for ${text}`;
        return (
          <span key={reason} class={needsHelp ? "state-warning" : "muted"}>
            {index > 0 && " · "}
            {hold ? <a href={href("/tasks", {}, { pool: pool.name, hold })}>{words}</a> : words}
          </span>
        );
      })}
    </span>
  );
}

export function PauseState({ pause }: { pause: Schema<"PauseInfo"> | null }) {
  if (!pause) return <Marked mark="finished" word="open" />;
  return (
    <span title={pause.reason || "no reason was given"}>
      <Marked mark="warning" word="paused" />{" "}
      <span class="muted roomy">
        {pause.by}, <When at={pause.since} />
      </span>
    </span>
  );
}

/** What admins and auditors see of a type's tasks. */
const USE: Column<TaskType>[] = [
  {
    id: "running",
    title: "Running",
    render: (each) =>
      each.use ? (
        <Meter
          value={(each.concurrency && each.use.counted) || each.use.running}
          of={each.concurrency}
          label={`running of ${each.name}`}
        />
      ) : (
        <span class="muted">–</span>
      ),
  },
  {
    id: "waiting",
    title: "Waiting",
    number: true,
    render: (each) => {
      if (!each.use?.waiting) return <span class="muted">0</span>;
      const held = each.use.heldByLimit;
      return (
        <a
          href={href("/tasks", {}, { type: each.name, status: "WAITING" })}
          title={held ? `${count(held)} for the type's limits` : undefined}
        >
          {count(each.use.waiting)}
        </a>
      );
    },
  },
  {
    id: "rate",
    title: "Starts/min",
    number: true,
    minor: true,
    className: "roomy",
    render: (each) => rate(each.use?.startsPerMinute),
  },
];

function TypeTable({ onPause }: { onPause: (pausing: Pausing) => void }) {
  const types = useTypes();
  const admin = isAdmin.value;
  const columns: Column<TaskType>[] = [
    {
      id: "name",
      title: "Type",
      render: (each) => <a href={href("/types/{name}", { name: each.name })}>{each.name}</a>,
    },
    { id: "pool", title: "Pool", render: (each) => each.pool },
    { id: "state", title: "State", render: (each) => <PauseState pause={each.pause} /> },
    { id: "rules", title: "Rules", render: (each) => rulesText(each) },
    { id: "description", title: "Description", wide: true, minor: true, render: (each) => each.description },
  ];
  if (readsAll.value) columns.splice(3, 0, ...USE);
  if (admin)
    columns.push({
      id: "act",
      title: "Actions",
      render: (each) => (
        <button
          type="button"
          class="small"
          onClick={() =>
            onPause({ what: "type", name: each.name, resume: each.pause !== null, says: TYPE_SAYS[each.pause ? 1 : 0] })
          }
        >
          {each.pause ? "Resume…" : "Pause…"}
        </button>
      ),
    });
  return (
    <section class="block">
      <h2>Types</h2>
      {types.error && !types.data && <Problem error={types.error} onRetry={types.reload} />}
      <DataTable
        label="Types"
        columns={columns}
        rows={types.data?.slice(0, 200)}
        rowKey={(each) => each.name}
        stale={types.isStale}
        keyless={readsAll.value}
        onOpen={(each) => navigate(href("/types/{name}", { name: each.name }))}
      />
    </section>
  );
}

export const TYPE_SAYS = [
  "Its tasks go on waiting, and new ones are accepted. Running tasks and other types of the pool go on.",
  "Its tasks start within seconds as slots are free.",
] as const;

export function PauseDialog({
  what,
  name,
  resume,
  says,
  onClose,
  onDone,
}: Pausing & { onClose: () => void; onDone: () => void }) {
  const verb = resume ? "Resume" : "Pause";
  return (
    <ConfirmDialog
      title={`${verb} the ${what} ${name}`}
      action={verb}
      reason
      onClose={onClose}
      onConfirm={async (reason) => {
        await post(`/api/${what}s/${encodeURIComponent(name)}/${resume ? "resume" : "pause"}`, { reason });
        toast(`The ${what} ${name} is ${resume ? "resumed" : "paused"}.`);
        onDone();
      }}
    >
      <p>{says}</p>
    </ConfirmDialog>
  );
}
