/** A secret, shown once: it closes when its reader says that it is stored. */
import type { ComponentChildren } from "preact";
import { useState } from "preact/hooks";
import { CopyButton } from "./CopyButton.tsx";
import { Dialog } from "./Dialog.tsx";
import { CheckField } from "./fields.tsx";

interface SecretProps {
  title: string;
  secret: string;
  children: ComponentChildren;
  onClose: () => void;
}

export function SecretDialog({ title, secret, children, onClose }: SecretProps) {
  const [isStored, setStored] = useState(false);
  const close = () => isStored && onClose();
  return (
    <Dialog
      title={title}
      onClose={close}
      onSubmit={close}
      actions={
        <button type="submit" class="primary" disabled={!isStored}>
          Done
        </button>
      }
    >
      {children}
      <p class="secret">
        <code>{secret}</code> <CopyButton text={secret} label="Copy the secret" word="copy" />
      </p>
      <CheckField label="I have stored it" value={isStored} onChange={setStored} />
    </Dialog>
  );
}
