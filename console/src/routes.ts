/** All pages. A page is one file in `pages/`, loaded when it is first shown. To add one, add a line. */
import type { ComponentType } from "preact";
import type { IconName } from "./parts/icons.ts";
import { match, parseAddress } from "./router.ts";

export interface PageProps {
  params: Record<string, string>;
  query: URLSearchParams;
}

export interface Route {
  /** Patterns with parameters come after those without. */
  path: string;
  /** Title of the page, and its word in the rail. */
  name: string;
  /** Drawn in the rail; undefined: the page is not in the rail. */
  icon?: IconName;
  /** `g` and this letter go there. */
  key?: string;
  /** Who sees it in the rail: everybody, or who reads all tasks (admins and auditors). */
  for?: "readers" | "admins";
  load: () => Promise<{ default: ComponentType<PageProps> }>;
}

export const ROUTES: Route[] = [
  { path: "/", name: "Overview", icon: "house", key: "o", load: () => import("./pages/overview.tsx") },
  { path: "/tasks/new", name: "New task", load: () => import("./pages/submit.tsx") },
  { path: "/task/{id}", name: "Task", load: () => import("./pages/task.tsx") },
  { path: "/tasks", name: "Tasks", icon: "list", key: "t", load: () => import("./pages/tasks.tsx") },
  { path: "/batches", name: "Batches", icon: "layers", key: "b", load: () => import("./pages/batches.tsx") },
  { path: "/batch/{id}", name: "Batch", load: () => import("./pages/batch.tsx") },
  {
    path: "/dead-letters",
    name: "Dead letters",
    icon: "skull",
    key: "d",
    load: () => import("./pages/dead_letters.tsx"),
  },
  { path: "/fleet", name: "Fleet", icon: "server", key: "f", for: "readers", load: () => import("./pages/fleet.tsx") },
  { path: "/fleet/new", name: "Register a server", load: () => import("./pages/register.tsx") },
  { path: "/fleet/{id}", name: "Server", load: () => import("./pages/server.tsx") },
  { path: "/fleet/{id}/edit", name: "Edit a server", load: () => import("./pages/register.tsx") },
  { path: "/pools", name: "Pools and types", icon: "boxes", key: "p", load: () => import("./pages/pools.tsx") },
  { path: "/types", name: "New type", load: () => import("./pages/type.tsx") },
  { path: "/types/{name}", name: "Type", load: () => import("./pages/type.tsx") },
  { path: "/limits", name: "Limits", icon: "gauge", key: "l", load: () => import("./pages/limits.tsx") },
  {
    path: "/schedules",
    name: "Schedules",
    icon: "calendar-clock",
    key: "s",
    load: () => import("./pages/schedules.tsx"),
  },
  { path: "/schedules/{id}", name: "Schedule", load: () => import("./pages/schedule.tsx") },
  { path: "/webhooks", name: "Webhooks", icon: "webhook", key: "w", load: () => import("./pages/webhooks.tsx") },
  { path: "/webhooks/{id}", name: "Webhook", load: () => import("./pages/webhook.tsx") },
  { path: "/keys", name: "API keys", icon: "key", key: "k", load: () => import("./pages/keys.tsx") },
  { path: "/log", name: "Log", icon: "scroll-text", key: "e", load: () => import("./pages/log.tsx") },
  {
    path: "/operations",
    name: "Operations",
    icon: "list-checks",
    key: "j",
    load: () => import("./pages/operations.tsx"),
  },
  { path: "/settings", name: "Settings", icon: "settings", key: "a", load: () => import("./pages/settings.tsx") },
];

/** True: an address such as `#/fleet/gpu-3` leads to a page that exists. */
export function hasPage(link: string): boolean {
  const { path } = parseAddress(link);
  return ROUTES.some((route) => match(route.path, path) !== null);
}
