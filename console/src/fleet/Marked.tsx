/** A word of one's own beside the shape of a state. */
import { type Mark, Shape } from "../parts/StateMark.tsx";

export function Marked({ mark, word }: { mark: Mark; word: string }) {
  return (
    <span class={`state state-${mark}`}>
      <Shape mark={mark} />
      <span>{word}</span>
    </span>
  );
}
