/** Bring a removed server back. If its API key was destroyed, another one is asked for. */
import { useState } from "preact/hooks";
import { post } from "../api/client.ts";
import { ConfirmDialog } from "../parts/Dialog.tsx";
import { CheckField, TextField } from "../parts/fields.tsx";
import { toast } from "../parts/toasts.tsx";
import type { Server } from "./data.ts";

export function RestoreDialog({
  server,
  onClose,
  onDone,
}: {
  server: Server;
  onClose: () => void;
  onDone: () => void;
}) {
  const [key, setKey] = useState("");
  const [none, setNone] = useState(false);
  const isKept = server.removed?.restorable ?? true;
  return (
    <ConfirmDialog
      title={`Restore ${server.id}`}
      action="Restore"
      onClose={onClose}
      onConfirm={async () => {
        if (!isKept && !none && !key) throw new Error("Type its API key, or say that it has none.");
        const body = isKept ? {} : { apiKey: none ? null : key };
        await post(`/api/servers/${encodeURIComponent(server.id)}/restore`, body);
        toast(`${server.id} is restored. Its first check has started.`);
        onDone();
      }}
    >
      <p>It comes back with its settings. It is offline until a health check succeeds.</p>
      {!isKept && (
        <>
          <TextField
            label="API key"
            type="password"
            value={key}
            disabled={none}
            onChange={setKey}
            hint="Its key was destroyed with its removal."
          />
          <CheckField label="It has no key any more" value={none} onChange={setNone} />
        </>
      )}
    </ConfirmDialog>
  );
}
