import { get } from "../api/client.ts";
import type { Ready, Schema } from "../api/types.ts";
import { type Column, DataTable } from "../parts/DataTable.tsx";
import { Fact, Facts } from "../parts/Facts.tsx";
import { CheckField, Field, SelectField } from "../parts/fields.tsx";
import { Meter } from "../parts/Meter.tsx";
import { PageHead } from "../parts/Page.tsx";
import { usePoll, useResource } from "../parts/resource.ts";
import { StateMark } from "../parts/StateMark.tsx";
import { EmptyState, Problem, Skeleton } from "../parts/states.tsx";
import { When } from "../parts/time.tsx";
import { prefer, preferences } from "../preferences.ts";
import { isAdmin, me, readsAll, signOut } from "../session.ts";
import { bytes, count } from "../text/format.ts";
import { zones } from "../text/zones.ts";

const READY_MS = 10_000;
type Worker = Schema<"WorkerProcess">;

export default function Settings() {
  return (
    <>
      <PageHead title="Settings" />
      <div class="stack">
        <div class="two-columns">
          <You />
          <Preferences />
        </div>
        <Service />
        {readsAll.value && <Workers />}
        {isAdmin.value && <ServiceSettings />}
        <p class="muted">
          <a href="licenses.txt" target="_blank" rel="noreferrer">
            Licences of what this console is made of
          </a>
        </p>
      </div>
    </>
  );
}

function You() {
  const who = me.value;
  const may = who?.may;
  return (
    <section class="card" aria-labelledby="you">
      <h2 id="you">You</h2>
      {who ? (
        <Facts>
          <Fact name="name">{who.subject}</Fact>
          <Fact name="roles">{who.roles.join(", ")}</Fact>
          <Fact name="token ends">
            <When at={who.expiresAt} none="never" />
          </Fact>
          <Fact name="may">
            {[
              may?.submit && "submit tasks",
              may?.readAll ? "read the tasks of all" : "read your own tasks",
              may?.administer && "change servers, types, pools and limits",
              may?.readAll &&
                (may?.readPayloads ? "read payloads and results of others" : "not read payloads of others"),
            ]
              .filter(Boolean)
              .join("; ")}
          </Fact>
        </Facts>
      ) : (
        <Skeleton rows={4} label="You" />
      )}
      <button type="button" onClick={() => signOut("You left.")}>
        Forget the token
      </button>
    </section>
  );
}

function Preferences() {
  const chosen = preferences.value;
  return (
    <section class="card" aria-labelledby="preferences">
      <h2 id="preferences">This browser</h2>
      <Field label="Time zone" hint="Of all times in this console.">
        {(attributes) => (
          <select {...attributes} value={chosen.zone} onChange={(event) => prefer({ zone: event.currentTarget.value })}>
            <option value="">the browser's</option>
            {zones().map((zone) => (
              <option key={zone} value={zone}>
                {zone}
              </option>
            ))}
          </select>
        )}
      </Field>
      <SelectField
        label="Theme"
        value={chosen.theme}
        onChange={(theme) => prefer({ theme: theme as "system" })}
        options={[
          ["system", "as the system"],
          ["light", "light"],
          ["dark", "dark"],
        ]}
      />
      <SelectField
        label="Density"
        value={chosen.density}
        onChange={(density) => prefer({ density: density as "compact" })}
        options={[
          ["compact", "compact"],
          ["comfortable", "comfortable"],
        ]}
      />
      <CheckField
        label="Single keys"
        value={chosen.singleKeys}
        onChange={(singleKeys) => prefer({ singleKeys })}
        hint="Such as j, k and /. Off: only keys with Ctrl."
      />
      <CheckField
        label="Live"
        value={chosen.live}
        onChange={(live) => prefer({ live })}
        hint="Pages renew themselves while they are visible."
      />
    </section>
  );
}

function Service() {
  const ready = usePoll("ready", (signal) => get<Ready>("/health/ready", { signal, quiet: true }), READY_MS);
  const state = ready.data;
  if (ready.error && !state) return <Problem error={ready.error} onRetry={ready.reload} />;
  if (!state) return <Skeleton rows={4} label="Service" />;
  const { nats, storage, index } = state;
  const difference = nats.clock_difference_ms;
  return (
    <section class={`card ${ready.isStale ? "stale" : ""}`} aria-labelledby="service">
      <h2 id="service">
        <StateMark mark={state.status === "ok" ? "finished" : "warning"} word={state.status} /> Service
      </h2>
      <Facts>
        <Fact name="version">
          {state.version}
          {me.value && me.value.version !== state.version && <> (this page: {me.value.version})</>}
        </Fact>
        <Fact name="NATS">
          {nats.connected ? nats.version : "not connected"}
          {difference !== null && `, its clock differs by ${Math.abs(difference).toFixed(1)} ms`}
        </Fact>
        <Fact name="durability">
          {nats.durability === "always"
            ? "what is acknowledged is on disk"
            : nats.durability === "interval"
              ? "what is acknowledged may be lost in a power cut"
              : "unknown: NATS' monitoring is not configured"}
        </Fact>
        {storage && (
          <Fact name="store">
            {storage.limitBytes ? (
              <>
                <Meter
                  label="Store"
                  value={Math.round(storage.percent ?? 0)}
                  of={100}
                  tone={storage.accepting ? undefined : "failed"}
                />{" "}
                {bytes(storage.usedBytes)} of {bytes(storage.limitBytes)}, limited by {storage.limitedBy}
              </>
            ) : (
              bytes(storage.usedBytes)
            )}
            {!storage.accepting && <b class="danger-text"> takes no new work</b>}
          </Fact>
        )}
        {index && (
          <Fact name="index">
            {index.state}
            {index.lagEvents > 0 && `, ${count(index.lagEvents)} events behind`}
          </Fact>
        )}
        {Object.entries(state.halted).map(([name, reason]) => (
          <Fact key={name} name={`${name} halted`}>
            <span class="danger-text">{reason}</span>
          </Fact>
        ))}
      </Facts>
      {state.warnings.length > 0 && (
        <ul>
          {state.warnings.map((warning) => (
            <li key={warning}>{warning}</li>
          ))}
        </ul>
      )}
      <p class="links">
        <a href="../docs" target="_blank" rel="noreferrer">
          API
        </a>
        <a href="../openapi.json" target="_blank" rel="noreferrer">
          openapi.json
        </a>
        <a href="../metrics" target="_blank" rel="noreferrer">
          metrics
        </a>
      </p>
    </section>
  );
}

const WORKER_COLUMNS: Column<Worker>[] = [
  {
    id: "state",
    title: "State",
    render: (worker) => (
      <StateMark mark={worker.alive ? "finished" : "failed"} word={worker.alive ? "alive" : "silent"} />
    ),
  },
  { id: "id", title: "Worker", className: "mono", render: (worker) => worker.id },
  { id: "host", title: "Machine", minor: true, render: (worker) => `${worker.host ?? "?"} · ${worker.pid}` },
  { id: "version", title: "Version", minor: true, render: (worker) => worker.version ?? "–" },
  { id: "leases", title: "Jobs that it alone does", wide: true, render: (worker) => worker.leases.join(", ") || "–" },
  { id: "servers", title: "Servers", number: true, render: (worker) => count(worker.servers) },
  { id: "seen", title: "Seen", number: true, render: (worker) => <When at={worker.lastSeen} /> },
  { id: "started", title: "Started", number: true, minor: true, render: (worker) => <When at={worker.startedAt} /> },
];

function Workers() {
  const found = usePoll(
    "workers",
    (signal) => get<Schema<"WorkerPage">>("/api/workers", { query: { limit: 200 }, signal }),
    READY_MS,
  );
  const { scheduler } = found.data ?? {};
  return (
    <section aria-labelledby="workers">
      <h2 id="workers">Workers</h2>
      {scheduler && (
        <p class="muted">
          Scheduler: {scheduler.worker ?? "none"}, its last report{" "}
          <When at={scheduler.reportedAt} none="has not come" />.
        </p>
      )}
      {found.error && !found.data ? (
        <Problem error={found.error} onRetry={found.reload} />
      ) : (
        <DataTable
          label="Workers"
          columns={WORKER_COLUMNS}
          rows={found.data?.workers}
          rowKey={(worker) => worker.id}
          stale={found.isStale}
          empty={
            <EmptyState title="No worker runs">
              {<p>Tasks are accepted, and nothing runs: start one with taskstream worker.</p>}
            </EmptyState>
          }
        />
      )}
    </section>
  );
}

type Setting = Schema<"SettingInfo">;
const text = (value: unknown): string =>
  value === null || value === undefined ? "" : Array.isArray(value) ? value.join(", ") : String(value);

const SETTING_COLUMNS: Column<Setting>[] = [
  { id: "name", title: "Setting", className: "mono", render: (setting) => setting.name },
  {
    id: "value",
    title: "Value",
    className: "mono",
    render: (setting) =>
      setting.source === "default" ? <span class="muted">{text(setting.value)}</span> : <b>{text(setting.value)}</b>,
  },
  { id: "source", title: "From", render: (setting) => setting.source },
  { id: "meaning", title: "Meaning", wide: true, minor: true, render: (setting) => setting.meaning },
];

function ServiceSettings() {
  const found = useResource("settings", (signal) => get<Schema<"SettingsAnswer">>("/api/settings", { signal }));
  const settings = found.data?.settings;
  return (
    <details>
      <summary>
        Settings of the process that answered
        {settings && <>, {settings.filter((each) => each.source !== "default").length} of them set</>}
      </summary>
      {found.error && !found.data && <Problem error={found.error} onRetry={found.reload} />}
      {found.data?.unknown.map((name) => (
        <p key={name} class="danger-text">
          {name} is no setting: a typing error?
        </p>
      ))}
      <DataTable
        label="Settings"
        columns={SETTING_COLUMNS}
        rows={settings?.toSorted((a, b) => Number(a.source === "default") - Number(b.source === "default"))}
        rowKey={(setting) => setting.name}
      />
    </details>
  );
}
