import { When } from "../parts/time.tsx";
import { preferences } from "../preferences.ts";
import { exact, instant } from "../text/format.ts";

/** Instants of runs: in the schedule's clock, and in yours if that is another one. */
export function Runs({ runs, zone }: { runs: (number | string)[]; zone: string }) {
  const yours = preferences.value.zone;
  if (!runs.length) return <p class="muted">It never runs.</p>;
  return (
    <table class="plain-table">
      <thead>
        <tr>
          <th scope="col">Next runs, {zone}</th>
          <th scope="col">{yours || "Your clock"}</th>
          <th scope="col" />
        </tr>
      </thead>
      <tbody>
        {runs.map((run) => {
          const at = instant(run);
          return (
            <tr key={at}>
              <td class="number">{exact(at, zone).replace(".000", "")}</td>
              <td class="number muted">{exact(at, yours).replace(".000", "")}</td>
              <td>
                <When at={at} />
              </td>
            </tr>
          );
        })}
      </tbody>
    </table>
  );
}
