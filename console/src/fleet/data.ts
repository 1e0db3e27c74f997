/** What the pages of the fleet read. */
import { get } from "../api/client.ts";
import type { Schema } from "../api/types.ts";
import { usePoll } from "../parts/resource.ts";

export type Server = Schema<"ServerSummary">;
export type Pool = Schema<"PoolSummary">;
export type Rates = Schema<"SeriesOfValue">;
export type ErrorGroup = Schema<"ErrorSummary">;

/** The registered servers, and those that are gone. */
export const useServers = () =>
  usePoll("servers", async (signal) => (await get<Schema<"ServerPage">>("/api/servers", { signal })).servers);

export const useGone = () =>
  usePoll(
    "gone",
    async (signal) =>
      (await get<Schema<"ServerPage">>("/api/servers", { signal, query: { removed: true, since: "24h" } })).servers,
    15_000,
  );

export const usePools = (every = 5000) =>
  usePoll(
    "pools",
    async (signal) => (await get<Schema<"PoolPage">>("/api/pools", { signal, query: { limit: 200 } })).pools,
    every,
  );

/** What happened on each server in the last hour: of the 20 with most. */
export const useRates = () =>
  usePoll(
    "rates",
    async (signal) => {
      const query = { by: "server", from: "1h" };
      const stats = await get<Schema<"StatsAnswer">>("/api/stats", { signal, query });
      return new Map(stats.groups.map((group) => [group.value, group]));
    },
    15_000,
  );

/** The most frequent error of each server in the last hour. */
export const useTopErrors = () =>
  usePoll(
    "errors",
    async (signal) => {
      const page = await get<Schema<"ErrorPage">>("/api/errors", { signal, query: { since: "1h", limit: 100 } });
      const found = new Map<string, { error: ErrorGroup; count: number }>();
      for (const error of page.errors)
        for (const [server, count] of Object.entries(error.servers))
          if (count > (found.get(server)?.count ?? 0)) found.set(server, { error, count });
      return found;
    },
    15_000,
  );

/** The names of pools of each server, by its id. */
export function poolsByServer(pools: readonly Pool[]): Map<string, string[]> {
  const found = new Map<string, string[]>();
  for (const pool of pools)
    for (const server of pool.servers) found.set(server.id, [...(found.get(server.id) ?? []), pool.name]);
  return found;
}
