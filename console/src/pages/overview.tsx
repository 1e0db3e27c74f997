import { get } from "../api/client.ts";
import type { Ready } from "../api/types.ts";
import { PageHead } from "../parts/Page.tsx";
import { usePoll } from "../parts/resource.ts";

export default function Overview() {
  const ready = usePoll("ready", (signal) => get<Ready>("/health/ready", { signal }));
  return <PageHead title="Overview">{ready.data?.status}</PageHead>;
}
