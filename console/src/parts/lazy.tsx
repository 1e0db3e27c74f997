/** Parts of a page that are loaded when they are first shown. */
import type { ComponentType } from "preact";
import { useEffect, useState } from "preact/hooks";
import { Problem, Skeleton } from "./states.tsx";

/** Return a component that loads another one. */
export function lazy<Props extends object>(load: () => Promise<ComponentType<Props>>): ComponentType<Props> {
  let loaded: ComponentType<Props> | null = null;
  return function Lazy(props: Props) {
    const [, setReady] = useState(loaded !== null);
    const [error, setError] = useState<Error | null>(null);
    useEffect(() => {
      if (loaded) return;
      load().then(
        (component) => {
          loaded = component;
          setReady(true);
        },
        (problem: Error) => setError(problem),
      );
    }, []);
    if (error) return <Problem error={error} />;
    const Component = loaded;
    return Component ? <Component {...props} /> : <Skeleton rows={5} />;
  };
}
