import type { components, paths } from "./api";
type Body = paths["/api/task"]["post"]["requestBody"]["content"]["application/json"];
export const short: Body = { mimeType: "video/mp4", model: "m", enable_upscale: true };
export const full: Body = { payload: { a: 1 } };
export const more: Body = { payload: 1, type: "resize", priority: "high", runAt: "2026-01-31T12:00:00Z" };
// @ts-expect-error an option without a payload
export const wrong: Body = { priority: "high" };
// @ts-expect-error a wrong value of an option
export const bad: Body = { payload: 1, priority: "urgent" };
type Message = components["schemas"]["StreamMessage"];
export function error(message: Message): string | undefined {
  if (message.type === "state") return message.task.error ?? undefined;
  if (message.type === "TaskFailed" && message.event.type === "TaskFailed") return message.event.error;
  return undefined;
}
type Answer = paths["/api/task/{task_id}"]["get"]["responses"][200]["content"]["application/json"];
export const percent = (answer: Answer): number | null | undefined => answer.taskDetails.result?.metadata.progress;
export type Delivery = components["schemas"]["WebhookMessage"]["data"]["event"]["type"];
