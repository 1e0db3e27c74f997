/** The next runs of a schedule that is being written, as the service computes them. */
import { useEffect, useState } from "preact/hooks";
import { type ApiError, post } from "../api/client.ts";
import type { Schema } from "../api/types.ts";
import { Runs } from "./Runs.tsx";

const PAUSE_MS = 250;

export function Preview({ cron, zone }: { cron: string; zone: string }) {
  const [found, setFound] = useState<Schema<"SchedulePreview"> | null>(null);
  const [fault, setFault] = useState<string | null>(null);
  useEffect(() => {
    const stop = new AbortController();
    const timer = setTimeout(() => {
      post<Schema<"SchedulePreview">>(
        "/api/schedules/preview",
        { cron, timeZone: zone },
        { signal: stop.signal, noted: false },
      )
        .then((preview) => {
          setFound(preview);
          setFault(null);
        })
        .catch((error: ApiError) => {
          if (error.name === "AbortError") return;
          setFound(null);
          setFault(error.message);
        });
    }, PAUSE_MS);
    return () => {
      clearTimeout(timer);
      stop.abort();
    };
  }, [cron, zone]);
  return (
    <div class="card preview" aria-live="polite">
      {fault && <p class="field-error">{fault}</p>}
      {found && (
        <>
          <p>
            <b>{found.words}</b>
          </p>
          <Runs runs={found.nextRuns} zone={zone} />
          {found.warnings.map((warning) => (
            <p key={warning} class="warning-text">
              {warning}
            </p>
          ))}
        </>
      )}
      {!found && !fault && <p class="muted">The next runs appear here.</p>}
    </div>
  );
}
