/** A page for tests in a browser: shows what it is told to, and counts what it is asked for. */
import { Taskstream } from "@taskstream/client";
import { TaskstreamProvider, useConnection, useQueuedTasks, useSubmit, useTask, useTasks } from "@taskstream/react";
import { StrictMode, useState } from "react";
import { createRoot } from "react-dom/client";

interface Shown {
  tasks?: string[];
  lists?: Record<string, unknown>[];
  queued?: boolean;
  submits?: string;
}

declare global {
  interface Window {
    show(what: Shown): void;
    getToken(): Promise<string>;
    client: Taskstream;
  }
}

function Task({ id }: { id: string }) {
  const task = useTask(id);
  return (
    <div data-task={id} data-status={task.status} data-progress={task.progress} data-error={task.error?.message}>
      <pre>{task.output}</pre>
      <code>{JSON.stringify(task.result)}</code>
      <button type="button" onClick={() => task.cancel()}>
        Cancel
      </button>
    </div>
  );
}

function List({ query }: { query: Record<string, unknown> }) {
  const { tasks, isLoading } = useTasks(query);
  return (
    <ul data-list={JSON.stringify(query)} data-loading={isLoading}>
      {tasks.map((task) => (
        <li key={task.id}>{`${task.id} ${task.status}`}</li>
      ))}
    </ul>
  );
}

function Queued() {
  const { tasks, cancelTask } = useQueuedTasks();
  return (
    <ol>
      {tasks.map((task) => (
        <li key={task.id} data-queued={task.status}>
          {`${task.projectName} ${task.progress}`}
          <button type="button" onClick={() => cancelTask(task.id)}>
            Stop
          </button>
        </li>
      ))}
    </ol>
  );
}

function Submit({ type }: { type: string }) {
  const { submit, task, isSubmitting } = useSubmit(type);
  return (
    <form
      data-submitting={isSubmitting}
      onSubmit={(event) => {
        event.preventDefault();
        void submit({ from: "the page" });
      }}
    >
      <button type="submit">Submit</button>
      <output data-status={task.status}>{JSON.stringify(task.result)}</output>
    </form>
  );
}

function Page() {
  const [shown, setShown] = useState<Shown>({});
  window.show = setShown;
  const connection = useConnection();
  return (
    <main data-connection={connection}>
      {shown.tasks?.map((id) => (
        <Task key={id} id={id} />
      ))}
      {shown.lists?.map((query) => (
        <List key={JSON.stringify(query)} query={query} />
      ))}
      {shown.queued && <Queued />}
      {shown.submits && <Submit type={shown.submits} />}
    </main>
  );
}

window.client = new Taskstream({ getToken: () => window.getToken(), streams: { pollMs: 300 } });
createRoot(document.getElementById("root") as HTMLElement).render(
  <StrictMode>
    <TaskstreamProvider client={window.client}>
      <Page />
    </TaskstreamProvider>
  </StrictMode>,
);
