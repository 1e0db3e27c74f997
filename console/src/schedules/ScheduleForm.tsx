/** Create a schedule, or change one. What it would do is shown while one types. */
import { useEffect, useState } from "preact/hooks";
import { type ApiError, newKey, patch, post } from "../api/client.ts";
import type { Schema } from "../api/types.ts";
import { Dialog } from "../parts/Dialog.tsx";
import { errorAt, SelectField, TextArea, TextField } from "../parts/fields.tsx";
import { Problem } from "../parts/states.tsx";
import { zones } from "../text/zones.ts";
import { Preview } from "./Preview.tsx";

type Detail = Schema<"ScheduleDetail">;

const EXAMPLE = '{\n  "type": "default",\n  "payload": {}\n}';
const PATHS = ["$.cron", "$.timeZone", "$.name", "$.catchUp"];

export function ScheduleForm({
  schedule,
  taskText = EXAMPLE,
  onClose,
  onSaved,
}: {
  /** Undefined: a new one. */
  schedule?: Detail;
  /** Its task as it was sent. */
  taskText?: string;
  onClose: () => void;
  onSaved: (saved: Detail) => void;
}) {
  const [name, setName] = useState(schedule?.name ?? "");
  const [cron, setCron] = useState(schedule?.cron ?? "0 7 * * *");
  const [zone, setZone] = useState(schedule?.timeZone ?? Intl.DateTimeFormat().resolvedOptions().timeZone ?? "UTC");
  const [missed, setMissed] = useState<Detail["missed"]>(schedule?.missed ?? "skip");
  const [catchUp, setCatchUp] = useState(String(schedule?.catchUp ?? 1));
  // Text, and sent as text: 64-bit numbers and the order of fields stay.
  const [task, setTask] = useState(taskText);
  const [isTaskChanged, setTaskChanged] = useState(false);
  const [error, setError] = useState<ApiError | null>(null);
  const [key] = useState(newKey);
  const wrongJson = jsonFault(task);
  useEffect(() => setError(null), [cron, zone, task]);
  const save = async () => {
    if (wrongJson) return;
    const fields = { name, cron, timeZone: zone, missed, catchUp: Number(catchUp) || 1 };
    const body =
      schedule && !isTaskChanged ? fields : `${JSON.stringify(fields).slice(0, -1)},"task":${task.trim() || "null"}}`;
    try {
      const path = schedule ? `/api/schedules/${encodeURIComponent(schedule.id)}` : "/api/schedules";
      const saved = schedule
        ? await patch<Detail>(path, body)
        : await post<Detail>(path, body, { idempotencyKey: key });
      onSaved(saved);
      onClose();
    } catch (refusal) {
      setError(refusal as ApiError);
    }
  };
  const path = error?.problem.path ?? "";
  const isShown = PATHS.includes(path) || path.startsWith("$.task");
  return (
    <Dialog
      title={schedule ? `Change ${schedule.name || "the schedule"}` : "New schedule"}
      wide
      onClose={onClose}
      onSubmit={save}
      actions={[
        <button key="no" type="button" onClick={onClose}>
          Close
        </button>,
        <button key="yes" type="submit" class="primary" disabled={Boolean(wrongJson)}>
          {schedule ? "Save" : "Create"}
        </button>,
      ]}
    >
      <div class="two-columns">
        <TextField label="Name" value={name} onChange={setName} error={errorAt(error, "$.name")} />
        <TextField
          label="Time zone"
          value={zone}
          onChange={setZone}
          list="zones"
          error={errorAt(error, "$.timeZone")}
          hint="The clock of the schedule, such as Europe/Berlin or UTC."
        />
        <datalist id="zones">
          {zones().map((each) => (
            <option key={each} value={each} />
          ))}
        </datalist>
        <TextField
          label="When"
          required
          autofocus
          value={cron}
          onChange={setCron}
          error={errorAt(error, "$.cron")}
          hint="Minute, hour, day of month, month, day of week; or @daily."
        />
        <div class="two-columns">
          <SelectField
            label="Missed runs"
            value={missed}
            onChange={(value) => setMissed(value as Detail["missed"])}
            options={[
              ["skip", "skip"],
              ["catch_up", "catch up"],
            ]}
            hint="While the service was down, or the schedule paused."
          />
          {missed === "catch_up" && (
            <TextField
              label="Runs to catch up"
              type="number"
              value={catchUp}
              onChange={setCatchUp}
              error={errorAt(error, "$.catchUp")}
              hint="The latest ones, 100 at most."
            />
          )}
        </div>
      </div>
      <Preview cron={cron} zone={zone} />
      <TextArea
        label="Task"
        mono
        rows={8}
        value={task}
        onChange={(value) => {
          setTask(value);
          setTaskChanged(true);
        }}
        error={wrongJson ?? (path.startsWith("$.task") ? `${path}: ${error?.problem.detail}` : null)}
        hint="As in POST /api/task, without runAt, expiresAt, deadline and dependsOn."
      />
      {error && !isShown && <Problem error={error} />}
    </Dialog>
  );
}

function jsonFault(text: string): string | null {
  try {
    JSON.parse(text);
    return null;
  } catch (fault) {
    return (fault as Error).message;
  }
}
