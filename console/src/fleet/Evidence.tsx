/** What a server was asked to find out what it speaks, and what it answered. */
import type { Schema } from "../api/types.ts";

export function Evidence({ evidence }: { evidence: Schema<"EvidenceInfo">[] }) {
  return (
    <ul class="evidence">
      {evidence.map((each) => (
        <li key={each.path}>
          <code>{each.path}</code> <b>{each.status ?? "no answer"}</b> <span class="muted">{each.sign ?? ""}</span>
        </li>
      ))}
    </ul>
  );
}
