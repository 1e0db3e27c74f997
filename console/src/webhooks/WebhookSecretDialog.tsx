/** The secret of a webhook, shown once. */
import type { Schema } from "../api/types.ts";
import { SecretDialog } from "../parts/SecretDialog.tsx";
import { Exact } from "../parts/time.tsx";

export function WebhookSecretDialog({ made, onClose }: { made: Schema<"WebhookSecret">; onClose: () => void }) {
  return (
    <SecretDialog title="The secret, shown once" secret={made.secret} onClose={onClose}>
      <p>The receiver checks signatures with it. The service never shows it again.</p>
      {made.previousUntil && (
        <p class="muted">
          Deliveries are also signed with the former secret until <Exact at={made.previousUntil} />.
        </p>
      )}
    </SecretDialog>
  );
}
