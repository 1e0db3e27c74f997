/** Who the token is of, as the service says. */
import { type ApiError, get } from "../api/client.ts";
import { type Me, me, token } from "../session.ts";

const RETRY_MS = 3000;

export async function readMe(): Promise<void> {
  const used = token.peek();
  try {
    const found = await get<Me>("/api/me", { noted: false });
    if (token.peek() === used) me.value = found;
  } catch (error) {
    // A 401 asks for a token. Without an answer: again, a little later.
    if ((error as ApiError).isOutage) setTimeout(() => token.peek() === used && void readMe(), RETRY_MS);
  }
}
