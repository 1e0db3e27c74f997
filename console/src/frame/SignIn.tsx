/** Ask for a token: as the whole page at first, over the page when the service refuses the one it has. */
import { useState } from "preact/hooks";
import { Dialog } from "../parts/Dialog.tsx";
import { TextArea } from "../parts/fields.tsx";
import { asking, signIn } from "../session.ts";

function TokenField({ value, onChange }: { value: string; onChange: (value: string) => void }) {
  return (
    <TextArea
      label="Token"
      mono
      rows={4}
      value={value}
      onChange={onChange}
      hint="Kept in this tab only, until you close it."
    />
  );
}

export function SignIn() {
  const [text, setText] = useState("");
  return (
    <main class="sign-in">
      <h1>Taskstream</h1>
      <form
        onSubmit={(event) => {
          event.preventDefault();
          if (text.trim()) signIn(text);
        }}
      >
        {asking.value && (
          <p class="field-error" role="alert">
            {asking.value}
          </p>
        )}
        <TokenField value={text} onChange={setText} />
        <button type="submit" class="primary" disabled={!text.trim()}>
          Connect
        </button>
      </form>
      <p class="muted">
        On the machine of the service, <code>taskstream console</code> opens this page with a token, and{" "}
        <code>taskstream token --sub you --role admin</code> prints one.
      </p>
    </main>
  );
}

export function SignInDialog() {
  const [text, setText] = useState("");
  const connect = () => text.trim() && signIn(text);
  return (
    <Dialog
      title="A token is needed"
      onClose={() => {
        asking.value = null;
      }}
      onSubmit={connect}
      actions={
        <button type="submit" class="primary" disabled={!text.trim()}>
          Connect
        </button>
      }
    >
      {asking.value && <p>The service says: {asking.value}</p>}
      <TokenField value={text} onChange={setText} />
    </Dialog>
  );
}
