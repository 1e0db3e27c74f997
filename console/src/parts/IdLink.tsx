import { href } from "../router.ts";
import { shortId } from "../text/format.ts";
import { CopyButton } from "./CopyButton.tsx";

/** A link to a task by its id; `full` shows all of it with a button that copies. */
export function IdLink({ id, full = false }: { id: string; full?: boolean }) {
  return (
    <span class="id">
      <a class="mono" href={href("/task/{id}", { id })} title={id}>
        {full ? id : shortId(id)}
      </a>
      {full && <CopyButton text={id} label="Copy the id" />}
    </span>
  );
}
