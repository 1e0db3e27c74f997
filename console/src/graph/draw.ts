/** Layouts of graphs, from a worker that is ended when it takes too long. */
import { startWorker } from "../parts/worker.ts";
import { isDrawable, LONGEST_LAYOUT, type Placed, type TaskGraph } from "./graph.ts";

/** Return where everything is; null if the graph is too large, or its layout takes too long. */
export function layOut(graph: TaskGraph): Promise<Placed | null> {
  if (!isDrawable(graph)) return Promise.resolve(null);
  return new Promise((resolve) => {
    const worker = startWorker("layout");
    const end = (result: Placed | null) => {
      clearTimeout(timer);
      worker.terminate();
      resolve(result);
    };
    const timer = setTimeout(() => end(null), LONGEST_LAYOUT);
    worker.onmessage = (event: MessageEvent<Placed>) => end(event.data);
    worker.onerror = () => end(null);
    worker.postMessage(graph);
  });
}
