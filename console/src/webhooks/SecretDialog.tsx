/** The secret of a webhook, shown once. */
import { useState } from "preact/hooks";
import type { Schema } from "../api/types.ts";
import { CopyButton } from "../parts/CopyButton.tsx";
import { Dialog } from "../parts/Dialog.tsx";
import { CheckField } from "../parts/fields.tsx";
import { Exact } from "../parts/time.tsx";

export function SecretDialog({ made, onClose }: { made: Schema<"WebhookSecret">; onClose: () => void }) {
  const [isStored, setStored] = useState(false);
  const close = () => isStored && onClose();
  return (
    <Dialog
      title="The secret, shown once"
      onClose={close}
      onSubmit={close}
      actions={
        <button type="submit" class="primary" disabled={!isStored}>
          Done
        </button>
      }
    >
      <p>The receiver checks signatures with it. The service never shows it again.</p>
      <p class="secret">
        <code>{made.secret}</code> <CopyButton text={made.secret} label="Copy the secret" word="copy" />
      </p>
      {made.previousUntil && (
        <p class="muted">
          Deliveries are also signed with the former secret until <Exact at={made.previousUntil} />.
        </p>
      )}
      <CheckField label="I have stored it" value={isStored} onChange={setStored} />
    </Dialog>
  );
}
