/** Why a task waits, runs or ended: in words first, then each thing that holds it, with what can be done. */
import type { ComponentChildren } from "preact";
import type { TaskStatus } from "../api/types.ts";
import { advice, headline, rowsOf, saying, type Why, type WhyRow } from "../fold/why.ts";
import { Icon } from "../parts/Icon.tsx";
import { IdLink } from "../parts/IdLink.tsx";
import { Meter } from "../parts/Meter.tsx";
import { markOf, StateMark } from "../parts/StateMark.tsx";
import { Duration, When } from "../parts/time.tsx";
import { href } from "../router.ts";
import { readsAll } from "../session.ts";
import { count, plural } from "../text/format.ts";
import type { Outline } from "./feed.ts";
import { Safe } from "./Safe.tsx";

export function WhyCard({ why, task, actions }: { why: Why; task: Outline; actions?: ComponentChildren }) {
  const rows = rowsOf(why, task);
  const only = rows.length === 1 ? rows[0] : undefined;
  return (
    <section class={`why why-${markOf(task)}`} aria-label="Why">
      <div class="why-head">
        <p class="why-said">
          <b>{headline(why)}.</b> {only ? <Reason row={only} /> : <Safe text={saying(why)} />}
        </p>
        {actions && <div class="why-actions">{actions}</div>}
      </div>
      {rows.length > 0 && (
        <ul class={only ? "why-rows why-only" : "why-rows"}>
          {rows.map((row, index) => (
            <Row key={index} row={row} isOnly={only !== undefined} />
          ))}
        </ul>
      )}
      {why.running && <Running why={why} />}
      {why.ended && <Ended why={why} />}
      {why.status === "WAITING" && why.lastError && (
        <p class="why-line">
          <span class="muted">The last attempt failed:</span> <Safe text={why.lastError} />
        </p>
      )}
      {why.keeper === "silent" && (
        <p class="why-line">
          <Icon name="triangle-alert" /> No scheduler answers, so limits are not known. One of the workers takes over
          within seconds.
        </p>
      )}
      {why.status === "WAITING" && why.verdicts.length > 0 && <Verdicts why={why} />}
    </section>
  );
}

function Reason({ row }: { row: WhyRow }) {
  return (
    <>
      <Safe text={row.text} />, <span class="muted">until</span> <Safe text={row.release} />.
    </>
  );
}

/** `isOnly`: its sentence is above it. */
function Row({ row, isOnly }: { row: WhyRow; isOnly: boolean }) {
  const mayFollow = row.link && (row.link.needs === "anyone" || readsAll.value);
  return (
    <li>
      {!isOnly && (
        <span class="why-text">
          <Reason row={row} />
        </span>
      )}
      <span class="why-data">
        {row.meter && <Meter value={row.meter.used} of={row.meter.most} label={row.title} tone="warning" />}
        {row.ahead > 0 && <span>{count(row.ahead)} ahead</span>}
        {row.until !== null && (
          <span>
            <Icon name="clock" size={14} /> <When at={row.until} />
          </span>
        )}
        {row.failsAt !== null && (
          <span class="danger-text">
            fails <When at={row.failsAt} />
          </span>
        )}
        {row.since !== null && (
          <span class="muted">
            for <Duration from={row.since} />
          </span>
        )}
        {row.link && mayFollow && <a href={row.link.to}>{row.link.label}</a>}
      </span>
      {row.parents.length > 0 && (
        <ul class="why-parents">
          {row.parents.slice(0, 12).map((parent) => (
            <li key={parent.id}>
              <StateMark mark={markOf({ status: parent.status as TaskStatus })} word="" /> <IdLink id={parent.id} />
            </li>
          ))}
          {row.parents.length + row.moreParents > 12 && (
            <li class="muted">and {count(row.parents.length + row.moreParents - 12)} more</li>
          )}
        </ul>
      )}
    </li>
  );
}

function Running({ why }: { why: Why }) {
  const running = why.running;
  if (!running) return null;
  return (
    <p class="why-line">
      {running.message && (
        <span>
          <Safe text={running.message} />
        </span>
      )}
      {running.deadline !== null && (
        <span class="muted">
          times out <When at={running.deadline} />
        </span>
      )}
      <span class="muted">
        {running.reportsByItself ? "the server reports by itself" : "the server answers with the result"}
      </span>
    </p>
  );
}

function Ended({ why }: { why: Why }) {
  const { ended } = why;
  if (!ended) return null;
  const next = advice(why);
  return (
    <p class="why-line">
      {ended.parentId && (
        <span>
          because of <IdLink id={ended.parentId} />
        </span>
      )}
      {ended.cancelOutcome && (
        <span>
          {CANCELLATIONS[ended.cancelOutcome] ?? ended.cancelOutcome}
          {ended.cancelDetail && (
            <>
              {" "}
              (<Safe text={ended.cancelDetail} />)
            </>
          )}
        </span>
      )}
      {next && <span>{next}.</span>}
      <span class="muted">
        by {ended.by.kind} <Safe text={ended.by.id} />, <When at={ended.at} />
      </span>
    </p>
  );
}

const CANCELLATIONS: Record<string, string> = {
  confirmed: "Its server stopped.",
  requested: "Its server was told to stop.",
  unconfirmed: "Its server did not say that it stopped.",
  impossible: "Its server cannot be told: the work goes on there.",
};

function Verdicts({ why }: { why: Why }) {
  const all = why.verdicts.reduce((sum, each) => sum + each.count, 0);
  return (
    <details class="why-verdicts">
      <summary>
        {plural(all, "server")}: {why.verdicts.map((each) => `${count(each.count)} ${each.text}`).join(", ")}
      </summary>
      {why.servers ? (
        <table class="data">
          <thead>
            <tr>
              <th scope="col">server</th>
              <th scope="col">verdict</th>
              <th scope="col">until</th>
            </tr>
          </thead>
          <tbody>
            {why.servers.map((server) => (
              <tr key={server.serverId}>
                <td>
                  <a href={href("/fleet/{id}", { id: server.serverId })}>
                    <Safe text={server.serverId} />
                  </a>
                </td>
                <td>
                  <Safe text={server.text} />
                </td>
                <td>
                  <When at={server.until} />
                </td>
              </tr>
            ))}
          </tbody>
        </table>
      ) : (
        <p class="muted meta">Admins and auditors see each server.</p>
      )}
    </details>
  );
}
