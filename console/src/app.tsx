/** The console starts here. */
import { effect } from "@preact/signals";
import { render } from "preact";
import { forgetCalls } from "./api/client.ts";
import { Frame } from "./frame/Frame.tsx";
import { readMe } from "./frame/identity.ts";
import { listenToKeys } from "./parts/keys.ts";
import { address, followAddress, parseAddress } from "./router.ts";
import { takeToken, token } from "./session.ts";

followAddress((hash) => {
  if (!takeToken(hash)) return false;
  address.value = parseAddress(location.hash);
  return true;
});
listenToKeys();

effect(() => {
  if (token.value) void readMe();
});
let shownPath = "";
effect(() => {
  if (address.value.path === shownPath) return;
  shownPath = address.value.path;
  forgetCalls();
});

const root = document.getElementById("app");
if (root) {
  root.replaceChildren();
  render(<Frame />, root);
}
