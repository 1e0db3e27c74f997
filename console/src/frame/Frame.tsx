/** What all pages share: rail, bar, the page itself, toasts, and the dialogs for a token, keys and calls. */
import { signal } from "@preact/signals";
import type { ComponentType } from "preact";
import { useEffect, useRef, useState } from "preact/hooks";
import { isUnreachable, lastAnswer } from "../api/client.ts";
import { isHeldBack, isLive } from "../live/feed.ts";
import { Icon } from "../parts/Icon.tsx";
import { isTyping, useKeys } from "../parts/keys.ts";
import { isPaused } from "../parts/resource.ts";
import { prefersDark } from "../parts/scheme.ts";
import { Problem, Skeleton } from "../parts/states.tsx";
import { now } from "../parts/time.tsx";
import { Toasts } from "../parts/toasts.tsx";
import { prefer, preferences } from "../preferences.ts";
import { address, match, navigate } from "../router.ts";
import { type PageProps, ROUTES, type Route } from "../routes.ts";
import { asking, isAdmin, me, readsAll, signOut, token } from "../session.ts";
import { BulkCards } from "../tasks/bulk.tsx";
import { clock, zoneName } from "../text/format.ts";
import { AlarmStrip } from "./alarms.tsx";
import { CallsDialog, KeysDialog } from "./dialogs.tsx";
import { Palette, type PaletteItem } from "./Palette.tsx";
import { SignIn, SignInDialog } from "./SignIn.tsx";

const MOD = /Mac|iPhone|iPad/.test(navigator.userAgent) ? "⌘" : "Ctrl";
export const overlay = signal<"keys" | "calls" | "palette" | null>(null);
const railOpen = signal(false);

export function visibleRoutes(): Route[] {
  return ROUTES.filter(
    (route) => route.icon && (!route.for || (route.for === "admins" ? isAdmin.value : readsAll.value)),
  );
}

export function Frame() {
  useKeys("Everywhere", [
    { key: "Mod+k", label: "Go to a page, an id, an action", run: () => setOverlay("palette") },
    { key: "?", label: "Keys", run: () => setOverlay("keys") },
    { key: "i", label: "The calls that filled this page", run: () => setOverlay("calls") },
    { key: ".", label: "Pause or go on with live updates", run: () => setPaused(!isPaused.value) },
    ...visibleRoutes()
      .filter((route) => route.key)
      .map((route) => ({ key: `g ${route.key}`, label: route.name, run: () => navigate(`#${route.path}`) })),
    {
      key: "Escape",
      label: "Back",
      hidden: true,
      run: (event: KeyboardEvent) => {
        if (isTyping(event.target)) (event.target as HTMLElement).blur();
      },
    },
  ]);
  if (!token.value) return <SignIn />;
  return (
    <div class="frame">
      <button type="button" class="skip" onClick={() => document.getElementById("main")?.focus()}>
        To the content
      </button>
      <Rail />
      <div class="column">
        <Bar />
        <Notices />
        <AlarmStrip />
        <CurrentPage />
      </div>
      <BulkCards />
      <Toasts />
      {asking.value !== null && <SignInDialog />}
      {overlay.value === "palette" && <Palette pages={pageItems()} onClose={() => setOverlay(null)} />}
      {overlay.value === "keys" && <KeysDialog onClose={() => setOverlay(null)} />}
      {overlay.value === "calls" && <CallsDialog onClose={() => setOverlay(null)} />}
    </div>
  );
}

function setOverlay(to: "keys" | "calls" | "palette" | null): void {
  overlay.value = to;
}

function pageItems(): PaletteItem[] {
  return visibleRoutes().map((route) => ({
    text: route.name,
    note: route.key ? `page, keys g ${route.key}` : "page",
    icon: route.icon ?? "list",
    run: () => navigate(`#${route.path}`),
  }));
}

function setPaused(paused: boolean): void {
  isPaused.value = paused;
}

function Rail() {
  const path = address.value.path;
  return (
    <nav class={`rail ${railOpen.value ? "rail-open" : ""}`} aria-label="Pages">
      <a class="brand" href="#/">
        <Mark /> <span>Taskstream</span>
      </a>
      <ul>
        {visibleRoutes().map((route) => {
          const isCurrent =
            route.path === "/" ? path === "/" : path === route.path || path.startsWith(`${route.path}/`);
          return (
            <li key={route.path}>
              <a
                href={`#${route.path}`}
                aria-current={isCurrent ? "page" : undefined}
                onClick={() => {
                  railOpen.value = false;
                }}
              >
                {route.icon && <Icon name={route.icon} />}
                <span>{route.name}</span>
              </a>
            </li>
          );
        })}
      </ul>
      <div class="rail-end">
        <button type="button" class="quiet" onClick={() => setOverlay("keys")}>
          <Icon name="info" /> <span>Keys</span>
        </button>
        <a href="../docs" target="_blank" rel="noreferrer">
          <Icon name="external-link" /> <span>API</span>
        </a>
      </div>
    </nav>
  );
}

function Mark() {
  return (
    <svg width="20" height="20" viewBox="0 0 16 16" aria-hidden="true">
      <rect width="16" height="16" rx="3" fill="#173647" />
      <path d="M3 5h10M3 8h7M3 11h4" stroke="#49cc90" stroke-width="1.6" stroke-linecap="round" />
    </svg>
  );
}

function Bar() {
  const dark = prefersDark.value;
  return (
    <header class="bar">
      <button
        type="button"
        class="quiet rail-button"
        aria-label="Pages"
        aria-expanded={railOpen.value}
        onClick={() => {
          railOpen.value = !railOpen.value;
        }}
      >
        <Icon name="menu" size={20} />
      </button>
      <button
        type="button"
        class="search"
        aria-label={`Search or paste an id ${MOD} K`}
        onClick={() => setOverlay("palette")}
      >
        <Icon name="search" /> <span>Search or paste an id</span> <kbd>{MOD} K</kbd>
      </button>
      <span class="bar-space" />
      <LiveState />
      <button
        type="button"
        class="quiet"
        aria-pressed={isPaused.value}
        title={isPaused.value ? "Go on with live updates (.)" : "Pause live updates (.)"}
        aria-label="Pause live updates"
        onClick={() => setPaused(!isPaused.value)}
      >
        <Icon name={isPaused.value ? "play" : "pause"} />
      </button>
      <span class="bar-clock number" title="The service's clock">
        {clock(now.value, preferences.value.zone)} {zoneName(now.value, preferences.value.zone)}
      </span>
      <button
        type="button"
        class="quiet"
        aria-label={dark ? "Light theme" : "Dark theme"}
        title={dark ? "Light theme" : "Dark theme"}
        onClick={() => prefer({ theme: dark ? "light" : "dark" })}
      >
        <Icon name={dark ? "sun" : "moon"} />
      </button>
      <Who />
    </header>
  );
}

function LiveState() {
  const seconds = Math.max(0, Math.round((Date.now() - lastAnswer.value) / 1000));
  now.value;
  if (isUnreachable.value)
    return (
      <span class="live live-off" role="status">
        <span class="dot" /> <span>reconnecting{lastAnswer.value ? `, data of ${seconds} s ago` : ""}</span>
      </span>
    );
  if (isPaused.value) return <span class="live">paused</span>;
  if (!isLive.value)
    return (
      <span
        class="live"
        title={isHeldBack.value ? "A proxy holds events back: see docs/push.md of the service" : undefined}
      >
        <span class="dot dot-polling" /> <span>{isHeldBack.value ? "polling: events are held back" : "polling"}</span>
      </span>
    );
  return (
    <span class="live live-on">
      <span class="dot" /> <span>live</span>
    </span>
  );
}

function Who() {
  const who = me.value;
  return (
    <span class="who">
      {who && (
        <span class="who-name" title={`roles: ${who.roles.join(", ")}`}>
          <Icon name="user" /> {who.subject} <span class="muted">{who.roles.join(", ")}</span>
        </span>
      )}
      <button
        type="button"
        class="quiet"
        aria-label="Forget the token"
        title="Forget the token"
        onClick={() => signOut()}
      >
        <Icon name="log-out" />
      </button>
    </span>
  );
}

const SOON_SECONDS = 5 * 60;

function Notices() {
  const expires = me.value?.expiresAt ? Date.parse(me.value.expiresAt) : Number.NaN;
  const left = Math.round((expires - now.value) / 1000);
  if (!(left < SOON_SECONDS)) return null;
  return (
    <div class="notice" role="status">
      <Icon name="clock" />
      {left > 0 ? `Your token ends in ${Math.ceil(left / 60)} min.` : "Your token has ended."}
      <button
        type="button"
        class="small"
        onClick={() => {
          asking.value = "";
        }}
      >
        New token
      </button>
    </div>
  );
}

const loaded = new Map<string, ComponentType<PageProps>>();

function CurrentPage() {
  const { path, query } = address.value;
  const main = useRef<HTMLElement>(null);
  const found = ROUTES.map((route) => ({ route, params: match(route.path, path) })).find(
    ({ params }) => params !== null,
  );
  const [failure, setFailure] = useState<Error | null>(null);
  const [, redraw] = useState(0);
  const before = useRef(path);
  const route = found?.route;
  useEffect(() => {
    document.title = route ? `${route.name} · Taskstream` : "Taskstream";
    if (before.current !== path) {
      main.current?.focus();
      main.current?.scrollTo(0, 0);
      scrollTo(0, 0);
    }
    before.current = path;
  }, [path]);
  useEffect(() => {
    setFailure(null);
    if (!route || loaded.has(route.path)) return;
    let ended = false;
    route
      .load()
      .then((module) => {
        loaded.set(route.path, module.default);
        if (!ended) redraw((count) => count + 1);
      })
      .catch((error: Error) => !ended && !reloadOnce() && setFailure(error));
    return () => {
      ended = true;
    };
  }, [route]);
  const Shown = route && loaded.get(route.path);
  return (
    <main id="main" ref={main} tabIndex={-1}>
      {failure ? (
        <Problem error={failure} onRetry={() => location.reload()} />
      ) : !route ? (
        <div class="empty">
          <h1>There is no such page</h1>
          <p>
            <a href="#/">Overview</a>
          </p>
        </div>
      ) : Shown ? (
        <Shown key={`${route.path} ${path}`} params={found.params ?? {}} query={query} />
      ) : (
        <Skeleton rows={6} />
      )}
    </main>
  );
}

/** After an upgrade of the service, files of the old page are gone: load the new one, once. */
function reloadOnce(): boolean {
  try {
    if (sessionStorage.getItem("taskstream.reloaded") === "1") return false;
    sessionStorage.setItem("taskstream.reloaded", "1");
  } catch {
    return false;
  }
  location.reload();
  return true;
}
