/** Modal dialogs: the browser's `<dialog>`, so focus stays inside and returns to where it was. */
import { signal } from "@preact/signals";
import type { ComponentChildren } from "preact";
import { useEffect, useRef, useState } from "preact/hooks";
import { Problem } from "./states.tsx";

interface DialogProps {
  title: string;
  onClose: () => void;
  children: ComponentChildren;
  /** Its buttons; the last one acts. */
  actions?: ComponentChildren;
  wide?: boolean;
  /** Ctrl+Enter or the submit button. */
  onSubmit?: () => void;
}

/** How many dialogs are open: single keys are off meanwhile, and no page reloads itself. */
export const openDialogs = signal(0);

export function Dialog({ title, onClose, children, actions, wide, onSubmit }: DialogProps) {
  const dialog = useRef<HTMLDialogElement>(null);
  useEffect(() => {
    const before = document.activeElement as HTMLElement | null;
    dialog.current?.showModal();
    openDialogs.value += 1;
    return () => {
      openDialogs.value -= 1;
      if (before?.isConnected) before.focus();
    };
  }, []);
  return (
    <dialog
      ref={dialog}
      class={wide ? "wide" : ""}
      aria-label={title}
      onCancel={(event) => {
        event.preventDefault();
        onClose();
      }}
      onClick={(event) => event.target === dialog.current && onClose()}
      onKeyDown={(event) => {
        event.stopPropagation();
        if (event.key === "Enter" && (event.ctrlKey || event.metaKey) && onSubmit) onSubmit();
      }}
    >
      <form
        method="dialog"
        onSubmit={(event) => {
          event.preventDefault();
          onSubmit?.();
        }}
      >
        <h2>{title}</h2>
        <div class="dialog-body">{children}</div>
        {actions && <div class="dialog-actions">{actions}</div>}
      </form>
    </dialog>
  );
}

interface ConfirmProps {
  title: string;
  children?: ComponentChildren;
  /** The word on the button, with its number: "Retry 138". */
  action: string;
  danger?: boolean;
  /** The number that must be typed first, for large actions; null: none. */
  typed?: number | null;
  /** Nothing can be confirmed yet, or there is nothing to do. */
  disabled?: boolean;
  /** Ask for a reason; it is given to `onConfirm`. */
  reason?: boolean;
  onConfirm: (reason: string) => Promise<unknown>;
  onClose: () => void;
}

/** Ask before an action. It stays open with the refusal if the service refuses. */
export function ConfirmDialog({
  title,
  children,
  action,
  danger,
  disabled = false,
  typed = null,
  reason,
  onConfirm,
  onClose,
}: ConfirmProps) {
  const [number, setNumber] = useState("");
  const [why, setWhy] = useState("");
  const [error, setError] = useState<Error | null>(null);
  const [busy, setBusy] = useState(false);
  const allowed = !disabled && (typed === null || number.replace(/[,\s]/g, "") === String(typed));
  const confirm = async () => {
    if (!allowed || busy) return;
    setBusy(true);
    setError(null);
    try {
      await onConfirm(why);
      onClose();
    } catch (refusal) {
      setError(refusal as Error);
      setBusy(false);
    }
  };
  return (
    <Dialog
      title={title}
      onClose={onClose}
      onSubmit={confirm}
      actions={[
        <button key="no" type="button" onClick={onClose}>
          Keep as it is
        </button>,
        <button key="yes" type="submit" class={danger ? "danger" : "primary"} disabled={!allowed || busy}>
          {action}
        </button>,
      ]}
    >
      {children}
      {reason && (
        <label class="field">
          <span>Reason (kept in the log)</span>
          <input type="text" maxLength={300} value={why} onInput={(event) => setWhy(event.currentTarget.value)} />
        </label>
      )}
      {typed !== null && (
        <label class="field">
          <span>
            Type <b>{typed}</b> to confirm
          </span>
          <input
            type="text"
            inputMode="numeric"
            autocomplete="off"
            value={number}
            onInput={(event) => setNumber(event.currentTarget.value)}
          />
        </label>
      )}
      {error && <Problem error={error} />}
    </Dialog>
  );
}
