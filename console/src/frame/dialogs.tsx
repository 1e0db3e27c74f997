/** The table of keys (`?`) and the calls that filled the page (`i`). */
import { apiUrl, calls } from "../api/client.ts";
import { CopyButton } from "../parts/CopyButton.tsx";
import { Dialog } from "../parts/Dialog.tsx";
import { CheckField } from "../parts/fields.tsx";
import { keyGroups } from "../parts/keys.ts";
import { prefer, preferences } from "../preferences.ts";

export function KeysDialog({ onClose }: { onClose: () => void }) {
  const apple = /Mac|iPhone|iPad/.test(navigator.userAgent);
  const named = (key: string) =>
    key
      .replace("Mod+", apple ? "⌘ " : "Ctrl ")
      .replace("Shift+", "Shift ")
      .replace("Alt+", "Alt ")
      .replace("Arrow", "");
  return (
    <Dialog title="Keys" wide onClose={onClose} actions={<CloseButton onClose={onClose} />}>
      <div class="key-groups">
        {keyGroups.value
          .filter((group) => group.bindings.some((each) => !each.hidden))
          .map((group, index) => (
            <section key={index}>
              <h3>{group.title}</h3>
              <dl class="keys">
                {group.bindings
                  .filter((each) => !each.hidden)
                  .map((each) => (
                    <div key={each.key}>
                      <dt>
                        <kbd>{named(each.key)}</kbd>
                      </dt>
                      <dd>{each.label}</dd>
                    </div>
                  ))}
              </dl>
            </section>
          ))}
      </div>
      <CheckField
        label="Single keys act"
        hint="Off: only keys with Ctrl or ⌘ act, for those who dictate."
        value={preferences.value.singleKeys}
        onChange={(singleKeys) => prefer({ singleKeys })}
      />
    </Dialog>
  );
}

export function CallsDialog({ onClose }: { onClose: () => void }) {
  return (
    <Dialog title="The calls of this page" wide onClose={onClose} actions={<CloseButton onClose={onClose} />}>
      <p class="muted">The console does nothing that the API cannot. Put your token into TOKEN.</p>
      {calls.value.length === 0 && <p>No call yet.</p>}
      <ul class="calls">
        {[...calls.value].reverse().map((each) => {
          const text = curl(each.method, each.path, each.body);
          return (
            <li key={`${each.method} ${each.path}`}>
              <code class="pre">{text}</code> <CopyButton text={text} />
            </li>
          );
        })}
      </ul>
    </Dialog>
  );
}

const CloseButton = ({ onClose }: { onClose: () => void }) => (
  <button type="button" onClick={onClose}>
    Close
  </button>
);

/** A call as a line for a shell, without the token. */
export function curl(method: string, path: string, body?: string): string {
  const single = (text: string) => `'${text.replaceAll("'", "'\\''")}'`;
  const parts = ["curl -sS", '-H "Authorization: Bearer $TOKEN"'];
  if (method !== "GET") parts.push(`-X ${method}`);
  if (body !== undefined) parts.push("--json", single(body));
  return [...parts, single(apiUrl(path))].join(" ");
}
