/** Remove servers that are long offline: the list first. */
import { useState } from "preact/hooks";
import { post } from "../api/client.ts";
import { ConfirmDialog } from "../parts/Dialog.tsx";
import { TextField } from "../parts/fields.tsx";
import { now } from "../parts/time.tsx";
import { toast } from "../parts/toasts.tsx";
import { instant, plural } from "../text/format.ts";
import type { Server } from "./data.ts";

export function CleanUpDialog({
  servers,
  onClose,
  onDone,
}: {
  servers: readonly Server[];
  onClose: () => void;
  onDone: () => void;
}) {
  const [minutes, setMinutes] = useState("3");
  const age = Number(minutes);
  const isNumber = minutes.trim() !== "" && age >= 0 && age <= 525_600;
  const due = servers.filter((each) => now.value - instant(each.offlineSince) >= age * 60_000);
  return (
    <ConfirmDialog
      title="Remove servers that are long offline"
      action={`Remove ${isNumber ? due.length : ""}`}
      danger
      onClose={onClose}
      onConfirm={async () => {
        if (!isNumber) throw new Error("Minutes must be a number from 0 to 525,600.");
        const answer = await post<{ removedServers: string[] }>("/api/servers/cleanup", { maxAgeMins: age });
        onDone();
        toast(`${plural(answer.removedServers.length, "server")} removed.`);
      }}
    >
      <p>They are restored as they were as soon as they answer a check or send a heartbeat.</p>
      <TextField
        label="Offline for longer than, minutes"
        value={minutes}
        onChange={setMinutes}
        error={isNumber ? null : "must be a number from 0 to 525,600"}
      />
      {due.length ? <p>Now: {due.map((each) => each.id).join(", ")}</p> : <p class="muted">No server is, now.</p>}
    </ConfirmDialog>
  );
}
