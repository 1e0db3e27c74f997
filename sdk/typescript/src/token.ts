/** The bearer token: given, or asked for when it is needed, before it expires, and once if the service refuses it. */

export type GetToken = () => string | Promise<string>;

/** A token is renewed so long before its end, or after nine tenths of its life if that is shorter. */
const EARLY_MS = 60_000;

export class TokenSource {
  private readonly get: GetToken | null;
  private current: string | null;
  /** Milliseconds since the epoch; Infinity: the present token says nothing of its end, or cannot be renewed. */
  renewAt = Number.POSITIVE_INFINITY;
  private asking: Promise<string> | null = null;

  constructor(token: string | null, get: GetToken | null) {
    this.current = token;
    this.get = get;
  }

  /** True: a refused token can be replaced. */
  get canRenew(): boolean {
    return this.get !== null;
  }

  /** Return a token that is valid for a while; null: none was configured. */
  async token(): Promise<string | null> {
    if (this.get && (this.current === null || Date.now() >= this.renewAt)) return this.renew();
    return this.current;
  }

  /** Ask for a new token, once for all who wait. */
  renew(): Promise<string> {
    this.asking ??= this.ask().finally(() => {
      this.asking = null;
    });
    return this.asking;
  }

  /** Return a new token in place of a refused one; the present one, if it is another by now. */
  async replaced(refused: string | null): Promise<string | null> {
    return this.current !== null && this.current !== refused ? this.current : this.renew();
  }

  private async ask(): Promise<string> {
    if (!this.get) throw new TypeError("there is no getToken");
    const token = await this.get();
    this.current = token;
    this.renewAt = renewalOf(token, Date.now());
    return token;
  }
}

/** Return when to renew a JWT, in milliseconds since the epoch; Infinity for a token that says nothing. */
export function renewalOf(token: string, nowMs: number): number {
  const expiry = expiryOf(token);
  if (expiry === null) return Number.POSITIVE_INFINITY;
  return expiry - Math.min(EARLY_MS, Math.max(0, expiry - nowMs) / 10);
}

/** Return the `exp` of a JWT in milliseconds; null for other tokens. It is read, not verified. */
export function expiryOf(token: string): number | null {
  const [, payload] = token.split(".");
  if (!payload || typeof atob !== "function") return null;
  try {
    const { exp } = JSON.parse(atob(payload.replace(/-/g, "+").replace(/_/g, "/"))) as { exp?: unknown };
    return typeof exp === "number" && Number.isFinite(exp) ? exp * 1000 : null;
  } catch {
    return null;
  }
}
