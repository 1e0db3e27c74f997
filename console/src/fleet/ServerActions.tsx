/** Actions on servers, each with a dialog that says what it does. One that is refused does not stop the others. */
import { del, post } from "../api/client.ts";
import { ConfirmDialog } from "../parts/Dialog.tsx";
import { toast } from "../parts/toasts.tsx";
import { plural } from "../text/format.ts";

export type ServerAction = "drain" | "resume" | "remove" | "detect";

interface About {
  verb: string;
  done: string;
  says: string;
  reason: boolean;
  run: (id: string, reason: string) => Promise<unknown>;
}

const at = (id: string, action: string) => `/api/servers/${encodeURIComponent(id)}${action && `/${action}`}`;

const ACTIONS: Record<ServerAction, About> = {
  drain: {
    verb: "Drain",
    done: "gets no new tasks",
    says: "It finishes the tasks that it runs and gets no new ones, until it is resumed. No task is lost.",
    reason: true,
    run: (id, reason) => post(at(id, "drain"), { reason }),
  },
  resume: {
    verb: "Resume",
    done: "gets tasks again",
    says: "It gets tasks again.",
    reason: true,
    run: (id, reason) => post(at(id, "resume"), { reason }),
  },
  remove: {
    verb: "Remove",
    done: "is removed",
    says: "It gets no tasks any more, and its API key is destroyed. Tasks that it runs go on, and their reports count. No health check restores it.",
    reason: false,
    run: (id) => del(at(id, "")),
  },
  detect: {
    verb: "Detect",
    done: "was asked what it speaks",
    says: "A few GET requests find out what it speaks now. None of them calls a model.",
    reason: false,
    run: (id) => post(at(id, "detect"), {}),
  },
};

export function ServerActionDialog({
  action,
  ids,
  onClose,
  onDone,
}: {
  action: ServerAction;
  ids: readonly string[];
  onClose: () => void;
  onDone: () => void;
}) {
  const { verb, done, says, reason, run } = ACTIONS[action];
  const [first = ""] = ids;
  const one = ids.length === 1;
  const confirm = async (why: string) => {
    const refused: string[] = [];
    for (const id of ids)
      try {
        await run(id, why);
      } catch (error) {
        if (one) throw error;
        refused.push(`${id}: ${(error as Error).message}`);
      }
    onDone();
    const count = ids.length - refused.length;
    if (count) toast(one ? `${first} ${done}.` : `${plural(count, "server")}: each ${done}.`);
    if (refused.length) throw new Error(`${plural(refused.length, "server")} refused:\n${refused.join("\n")}`);
  };
  return (
    <ConfirmDialog
      title={`${verb} ${one ? first : plural(ids.length, "server")}`}
      action={one ? verb : `${verb} ${ids.length}`}
      danger={action === "remove"}
      reason={reason}
      onConfirm={confirm}
      onClose={onClose}
    >
      <p>{says}</p>
      {!one && <p class="muted">{ids.join(", ")}</p>}
    </ConfirmDialog>
  );
}
