/** The state of a server: a shape and a word, never colour alone. */
import { type ServerState, STATE_NAMES } from "../fleet/server_state.ts";

/** The tones of tasks that mean the same. */
const TONES: Record<ServerState, string> = {
  online: "finished",
  busy: "processing",
  standby: "waiting",
  maintenance: "held",
  offline: "failed",
  open: "warning",
  "half-open": "warning",
  gone: "cancelled",
};

export function ServerMark({ state, word }: { state: ServerState; word?: string }) {
  return (
    <span class={`state state-${TONES[state]}`}>
      <svg
        class="shape"
        width="16"
        height="16"
        viewBox="0 0 16 16"
        aria-hidden="true"
        fill="none"
        stroke="currentColor"
        stroke-width="1.6"
        stroke-linecap="round"
        stroke-linejoin="round"
      >
        {drawn(state)}
      </svg>
      <span>{word ?? STATE_NAMES[state]}</span>
    </span>
  );
}

function drawn(state: ServerState) {
  switch (state) {
    case "online":
      return <circle cx="8" cy="8" r="5.6" fill="currentColor" stroke="none" />;
    case "busy":
      return [
        <circle key="r" cx="8" cy="8" r="5.6" />,
        <circle key="d" cx="8" cy="8" r="2.8" fill="currentColor" stroke="none" />,
      ];
    case "standby":
      return <path d="M12.8 9.6A5.4 5.4 0 1 1 6.4 3.2a4.3 4.3 0 0 0 6.4 6.4z" />;
    case "maintenance":
      return (
        <path d="M13.4 4.4l-2.2 2.2-1.8-1.8 2.2-2.2a3.6 3.6 0 0 0-4.7 4.5L2.6 11.4a1.4 1.4 0 0 0 2 2l4.3-4.3a3.6 3.6 0 0 0 4.5-4.7z" />
      );
    case "offline":
      return [<circle key="r" cx="8" cy="8" r="5.6" />, <path key="s" d="M4.2 11.8l7.6-7.6" />];
    case "open":
      return <path d="M9.2 1.8L4.2 9h3.4l-.8 5.2L11.8 7H8.4z" />;
    case "half-open":
      return [
        <circle key="r" cx="8" cy="8" r="5.6" />,
        <path key="h" d="M8 2.4a5.6 5.6 0 0 1 0 11.2z" fill="currentColor" stroke="none" />,
      ];
    case "gone":
      return <circle cx="8" cy="8" r="5.6" stroke-dasharray="2.4 2.5" />;
  }
}
