/** What can be done with a task. Each action asks first, and says what it does. */
import { useState } from "preact/hooks";
import { post } from "../api/client.ts";
import { copyText } from "../parts/CopyButton.tsx";
import { ConfirmDialog } from "../parts/Dialog.tsx";
import { Icon } from "../parts/Icon.tsx";
import { useKeys } from "../parts/keys.ts";
import { Menu } from "../parts/Menu.tsx";
import { toast } from "../parts/toasts.tsx";
import { href, navigate } from "../router.ts";
import { maySubmit, me } from "../session.ts";
import { isActive, type Outline } from "./feed.ts";
import { Safe } from "./Safe.tsx";
import { unwatch, watch, watched } from "./watch.ts";

type Action = "retry" | "cancel" | "delete";

export function TaskActions({ task, onDone }: { task: Outline; onDone: () => void }) {
  const [asking, setAsking] = useState<Action | null>(null);
  const active = isActive(task.status);
  const failed = task.status === "FAILED" || task.status === "CANCELLED";
  const isWatched = watched.value.has(task.id);
  const like = () => navigate(href("/tasks/new", {}, { like: task.id }));
  const copy = async (text: string, what: string) => {
    toast((await copyText(text)) ? `${what} copied` : "The browser does not allow copying.", "note");
  };
  const link = () => copy(location.href, "Link");
  useKeys("Task", [
    ...(maySubmit.value
      ? [
          ...(failed ? [{ key: "r", label: "Retry (asks)", run: () => setAsking("retry" as Action) }] : []),
          ...(active ? [{ key: "c", label: "Cancel (asks)", run: () => setAsking("cancel" as Action) }] : []),
          { key: "s", label: "Submit one like this", run: like },
        ]
      : []),
    { key: "y", label: "Copy the id", run: () => void copy(task.id, "Id") },
    { key: "Shift+y", label: "Copy the link", run: () => void link() },
  ]);
  return (
    <>
      {maySubmit.value && failed && (
        <button type="button" class="primary" onClick={() => setAsking("retry")}>
          <Icon name="rotate-ccw" /> Retry
        </button>
      )}
      {maySubmit.value && active && (
        <button type="button" onClick={() => setAsking("cancel")}>
          <Icon name="ban" /> Cancel
        </button>
      )}
      {active && (
        <button
          type="button"
          aria-pressed={isWatched}
          title="The title of this tab says how it goes on"
          onClick={() => (isWatched ? unwatch(task.id) : watch(task.id, task))}
        >
          <Icon name="eye" /> {isWatched ? "Watching" : "Watch"}
        </button>
      )}
      {maySubmit.value && (
        <button type="button" onClick={like}>
          <Icon name="copy" />
          <span>
            Submit<span class="wide-only"> one</span> like this
          </span>
        </button>
      )}
      <Menu
        label="More"
        icon
        items={[
          { label: "Copy the id", onSelect: () => void copy(task.id, "Id") },
          { label: "Copy the link", onSelect: () => void link() },
          ...(maySubmit.value && !active
            ? [{ label: "Delete…", danger: true, onSelect: () => setAsking("delete") }]
            : []),
        ]}
      />
      {asking && <Ask action={asking} task={task} onDone={onDone} onClose={() => setAsking(null)} />}
    </>
  );
}

function Ask({
  action,
  task,
  onDone,
  onClose,
}: {
  action: Action;
  task: Outline;
  onDone: () => void;
  onClose: () => void;
}) {
  const path = `/api/task/${encodeURIComponent(task.id)}/${action}`;
  const isOther = me.value !== null && me.value.subject !== task.owner;
  const run = async (reason: string) => {
    const body = reason ? { reason } : {};
    if (action === "delete") {
      const answer = await post<{ done: number; refused: { reason: string }[] }>("/api/tasks/delete", {
        ids: [task.id],
      });
      const [refused] = answer.refused;
      if (refused) throw new Error(refused.reason);
    } else await post(path, body);
    toast(DONE[action]);
    onDone();
  };
  return (
    <ConfirmDialog
      title={TITLES[action]}
      action={VERBS[action]}
      danger={action !== "retry"}
      reason={action !== "delete"}
      onConfirm={run}
      onClose={onClose}
    >
      <p>
        <code>{task.id}</code>
        <br />
        <span class="muted">
          <Safe text={task.type} />
          {isOther && (
            <>
              {" "}
              of <Safe text={task.owner} />
            </>
          )}
        </span>
      </p>
      <p>{MEANINGS[action]}</p>
    </ConfirmDialog>
  );
}

const TITLES: Record<Action, string> = {
  retry: "Retry this task?",
  cancel: "Cancel this task?",
  delete: "Delete this task?",
};
const VERBS: Record<Action, string> = { retry: "Retry", cancel: "Cancel the task", delete: "Delete" };
const DONE: Record<Action, string> = { retry: "Queued again", cancel: "Cancelled", delete: "Deleted" };
const MEANINGS: Record<Action, string> = {
  retry: "It is queued again with its full number of attempts. The same id, the same payload.",
  cancel: "It ends at once. If it runs, its server is told to stop.",
  delete: "It disappears from every list. Admins and auditors can still read its history.",
};
