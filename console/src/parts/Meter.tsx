import { count } from "../text/format.ts";

/** A part of a whole as a bar with its numbers. `of` null: there is no limit. */
export function Meter({
  value,
  of,
  label,
  tone,
}: {
  value: number;
  of: number | null;
  label: string;
  tone?: "warning" | "failed";
}) {
  const share = of ? Math.min(1, value / of) : 0;
  const text = of === null ? count(value) : `${count(value)}/${count(of)}`;
  return (
    <span class={`meter ${tone ? `meter-${tone}` : ""}`}>
      {of !== null && (
        <svg width="48" height="8" viewBox="0 0 48 8" role="img" aria-label={`${label}: ${text}`}>
          <rect class="meter-ground" width="48" height="8" rx="2" />
          <rect class="meter-value" width={48 * share} height="8" rx="2" />
        </svg>
      )}
      <span class="number">{text}</span>
    </span>
  );
}
