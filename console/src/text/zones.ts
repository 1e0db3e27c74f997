/** The time zones that the browser knows; older browsers list none. */
export function zones(): string[] {
  const supported = (Intl as { supportedValuesOf?: (what: string) => string[] }).supportedValuesOf;
  try {
    return ["UTC", ...(supported?.("timeZone") ?? [])];
  } catch {
    return ["UTC"];
  }
}
