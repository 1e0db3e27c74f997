/** The output and log lines of a task: the newest from the log, then each report as it comes. */
import { signal } from "@preact/signals";
import { inOrder, type TaskEvent } from "../fold/task.ts";
import { LogBuffer } from "../text/log.ts";
import type { ReportListener, TaskFeed } from "./feed.ts";

const PAGE = 200;
const KEPT = 5_000;
/** How often the log is drawn while output comes. */
const FLUSH_MS = 250;

export class OutputFeed implements ReportListener {
  readonly log = new LogBuffer();
  readonly version = signal(0);
  readonly isOpen = signal(false);
  /** The sequence before which older output may be loaded; null: there is none. */
  readonly older = signal<number | null>(null);
  lastSequence = 0;

  private readonly feed: TaskFeed;
  private reports: TaskEvent[] = [];
  private attempt = 0;
  private flushing: ReturnType<typeof setTimeout> | undefined;

  constructor(feed: TaskFeed) {
    this.feed = feed;
  }

  async open(): Promise<void> {
    const page = await this.feed.page({ before: "end", event: "ProgressReported", limit: PAGE });
    this.older.value = page.nextBefore;
    this.reports = inOrder(page.events);
    this.lastSequence = this.reports[this.reports.length - 1]?.sequence ?? 0;
    this.rebuild();
    this.isOpen.value = true;
    this.feed.listen(this);
  }

  close(): void {
    clearTimeout(this.flushing);
    if (this.feed.listener === this) this.feed.listener = null;
  }

  /** Load a page of older output. */
  async readOlder(): Promise<void> {
    const before = this.older.peek();
    if (before === null) return;
    const page = await this.feed.page({ before, event: "ProgressReported", limit: PAGE });
    this.older.value = page.nextBefore;
    // Reports that came before the log had them have no sequence: they stay where they are.
    this.reports = [...inOrder(page.events), ...this.reports].slice(-KEPT);
    this.rebuild();
  }

  hear(report: TaskEvent): void {
    this.lastSequence = Math.max(this.lastSequence, report.sequence);
    this.reports.push(report);
    if (this.reports.length > KEPT) this.reports = this.reports.slice(-KEPT);
    this.write(report);
    this.flushing ??= setTimeout(() => {
      this.flushing = undefined;
      this.version.value += 1;
    }, FLUSH_MS);
  }

  private rebuild(): void {
    this.log.clear();
    this.attempt = 0;
    for (const report of this.reports) this.write(report);
    this.version.value += 1;
  }

  private write({ event }: TaskEvent): void {
    const attempt = typeof event.attempt === "number" ? event.attempt : 0;
    const { output, lines } = event;
    const isEmpty = (typeof output !== "string" || output === "") && (!Array.isArray(lines) || lines.length === 0);
    if (isEmpty) return;
    if (attempt !== this.attempt) {
      const server = this.feed.story.peek()?.attempts.find((each) => each.number === attempt)?.server;
      this.log.line(`attempt ${attempt}${server ? ` on ${server}` : ""}`, "mark");
      this.attempt = attempt;
    }
    if (Array.isArray(lines)) for (const line of lines) if (typeof line === "string") this.log.line(line);
    if (typeof output === "string") this.log.output(output);
  }
}
