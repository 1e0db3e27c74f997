/** Register a webhook, or change one. */
import { useState } from "preact/hooks";
import { type ApiError, newKey, patch, post } from "../api/client.ts";
import type { Schema } from "../api/types.ts";
import { Dialog } from "../parts/Dialog.tsx";
import { errorAt, SelectField, TextField } from "../parts/fields.tsx";
import { Problem } from "../parts/states.tsx";

type Summary = Schema<"WebhookSummary">;

const CHOICES: [string, string][] = [
  ["ended", "ends of tasks"],
  ["attempts", "attempts"],
  ["progress", "progress"],
  ["all", "everything"],
];

export function WebhookForm({
  webhook,
  onClose,
  onMade,
  onSaved,
}: {
  webhook?: Summary;
  onClose: () => void;
  onMade?: (made: Schema<"WebhookSecret">) => void;
  onSaved?: () => void;
}) {
  const [url, setUrl] = useState(webhook?.url ?? "");
  const [events, setEvents] = useState(webhook ? "" : "ended");
  const [types, setTypes] = useState(webhook?.types.join(", ") ?? "");
  const [description, setDescription] = useState(webhook?.description ?? "");
  const [error, setError] = useState<ApiError | null>(null);
  const [key] = useState(newKey);
  const save = async () => {
    const listed = types
      .split(/[,\s]+/)
      .map((each) => each.trim())
      .filter(Boolean);
    const body = { url: url.trim(), types: listed, description, ...(events && { events: [events] }) };
    setError(null);
    try {
      if (webhook) {
        await patch(`/api/webhooks/${encodeURIComponent(webhook.id)}`, body);
        onSaved?.();
      } else onMade?.(await post<Schema<"WebhookSecret">>("/api/webhooks", body, { idempotencyKey: key }));
      onClose();
    } catch (refusal) {
      setError(refusal as ApiError);
    }
  };
  const path = error?.problem.path ?? "";
  const isShown = ["$.url", "$.types", "$.description"].includes(path);
  return (
    <Dialog
      title={webhook ? "Change the webhook" : "New webhook"}
      onClose={onClose}
      onSubmit={save}
      actions={[
        <button key="no" type="button" onClick={onClose}>
          Close
        </button>,
        <button key="yes" type="submit" class="primary" disabled={!url.trim()}>
          {webhook ? "Save" : "Register"}
        </button>,
      ]}
    >
      <TextField
        label="Address"
        required
        autofocus
        value={url}
        onChange={setUrl}
        placeholder="https://example.org/hooks/tasks"
        error={errorAt(error, "$.url")}
        hint="Each event is posted to it, signed."
      />
      <SelectField
        label="Events"
        value={events}
        onChange={setEvents}
        options={webhook ? [["", "as they are"], ...CHOICES] : CHOICES}
      />
      <TextField
        label="Types"
        value={types}
        onChange={setTypes}
        error={errorAt(error, "$.types")}
        hint="Only events of tasks of these types, separated by commas. Empty: all types."
      />
      <TextField
        label="Description"
        value={description}
        onChange={setDescription}
        error={errorAt(error, "$.description")}
      />
      {error && !isShown && <Problem error={error} />}
    </Dialog>
  );
}
