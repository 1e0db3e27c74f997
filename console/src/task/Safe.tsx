import { href } from "../router.ts";
import { readsAll } from "../session.ts";
import { isPlain, visible } from "../text/visible.ts";

/** Text from outside as text: its own direction, and names for what the eye cannot see. */
export function Safe({ text }: { text: string }) {
  if (isPlain(text)) return <bdi>{text}</bdi>;
  return (
    <bdi>
      {visible(text).map((run, index) =>
        run.isMark ? (
          <span key={index} class="mark-name" title="A character that is not seen">
            {run.text}
          </span>
        ) : (
          run.text
        ),
      )}
    </bdi>
  );
}

/** A server, as a link for those who may see it. */
export function ServerLink({ id }: { id: string }) {
  if (!readsAll.value) return <Safe text={id} />;
  return (
    <a href={href("/fleet/{id}", { id })}>
      <Safe text={id} />
    </a>
  );
}
