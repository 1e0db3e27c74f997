/** Shapes of the API, by the names of `/openapi.json`. `make console-types` writes `generated.ts` from it. */
import type { components } from "./generated.ts";

type Schemas = components["schemas"];
export type Schema<Name extends keyof Schemas> = Schemas[Name];
export type TaskSummary = Schemas["TaskSummary"];
export type TaskStatus = TaskSummary["status"];
export type TaskPage = Schemas["TaskPage"];
export type TaskCounts = Schemas["TaskCounts"];
export type Stats = Schemas["StatsAnswer"];
export type Ready = Schemas["Ready"];
