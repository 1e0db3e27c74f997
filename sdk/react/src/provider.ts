/** Gives the components below it one client, and with it one connection. */
import { type ClientOptions, Taskstream } from "@taskstream/client";
import {
  createContext,
  createElement,
  type ReactElement,
  type ReactNode,
  useContext,
  useEffect,
  useState,
} from "react";

const Context = createContext<Taskstream | null>(null);

export interface TaskstreamProviderProps extends ClientOptions {
  /** In place of the options: a client of yours. */
  client?: Taskstream;
  children?: ReactNode;
}

/**
 * `url` and `token` of another value make another client. `getToken` may be a new function at each render: the latest one
 * is called.
 */
export function TaskstreamProvider({ client, children, ...options }: TaskstreamProviderProps): ReactElement {
  // A box for the latest options: a client outlives the render that made it.
  const [latest] = useState(() => ({ options }));
  useEffect(() => {
    latest.options = options;
  });
  const key = `${options.url ?? ""}\n${options.token ?? ""}`;
  const [own, setOwn] = useState<{ key: string; client: Taskstream } | null>(() =>
    client ? null : { key, client: made(options, latest) },
  );
  let used = client ?? own?.client;
  if (!client && own?.key !== key) {
    const next = { key, client: made(options, latest) };
    setOwn(next);
    used = next.client;
  }
  return createElement(Context.Provider, { value: used ?? null }, children);
}

function made(options: ClientOptions, latest: { options: ClientOptions }): Taskstream {
  const getToken = options.getToken && (() => (latest.options.getToken ?? options.getToken!)());
  // On a server there is no page to take the address from, and nothing is asked of the service.
  const url = options.url ?? (typeof location === "undefined" ? "http://localhost" : location.origin);
  return new Taskstream({ ...options, url, ...(getToken ? { getToken } : {}) });
}

/** Return the client of the nearest TaskstreamProvider. */
export function useTaskstream(): Taskstream {
  const client = useContext(Context);
  if (!client) throw new Error("there is no <TaskstreamProvider> above this component");
  return client;
}
