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
