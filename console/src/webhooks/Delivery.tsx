/** One delivery: its tries with what the receiver answered, and the message as it is sent. */
import { get } from "../api/client.ts";
import type { Schema } from "../api/types.ts";
import { CopyButton } from "../parts/CopyButton.tsx";
import { Fact, Facts } from "../parts/Facts.tsx";
import { Icon } from "../parts/Icon.tsx";
import { IdLink } from "../parts/IdLink.tsx";
import { useResource } from "../parts/resource.ts";
import { StateMark } from "../parts/StateMark.tsx";
import { Problem, Skeleton } from "../parts/states.tsx";
import { Exact, When } from "../parts/time.tsx";
import { href } from "../router.ts";
import { bytes, duration } from "../text/format.ts";

export type DeliverySummary = Schema<"DeliverySummary">;
const SHOWN = 64 * 1024;
/** Characters of a body that are shown. */

export function DeliveryMark({ delivery }: { delivery: DeliverySummary }) {
  if (delivery.status === "delivered") return <StateMark mark="finished" word="delivered" />;
  if (delivery.status === "failed") return <StateMark mark="failed" />;
  return <StateMark mark={delivery.attempts ? "retry" : "waiting"} word="waiting" />;
}

export function Delivery({
  webhookId,
  delivery,
  onClose,
  onResend,
}: {
  webhookId: string;
  delivery: DeliverySummary;
  onClose: () => void;
  /** Undefined: not allowed. */
  onResend?: () => void;
}) {
  const path = `/api/webhooks/${encodeURIComponent(webhookId)}/deliveries/${encodeURIComponent(delivery.id)}/body`;
  const message = useResource(`body ${delivery.id}`, (signal) => get<Schema<"DeliveryMessage">>(path, { signal }));
  return (
    <aside class="card peek" aria-label="Delivery">
      <div class="peek-head">
        <h2>
          <DeliveryMark delivery={delivery} /> {delivery.type}
        </h2>
        <button type="button" class="quiet small" aria-label="Close" onClick={onClose}>
          <Icon name="x" size={14} />
        </button>
      </div>
      <Facts>
        <Fact name="message">
          <code>{delivery.messageId}</code> <CopyButton text={delivery.messageId} label="Copy the id of the message" />
        </Fact>
        {delivery.taskId && (
          <Fact name="task">
            <IdLink id={delivery.taskId} />
            {delivery.sequence && (
              <>
                {" "}
                <a href={href("/task/{id}", { id: delivery.taskId }, { tab: "events" })}>event {delivery.sequence}</a>
              </>
            )}
          </Fact>
        )}
        <Fact name="created">
          <When at={delivery.createdAt} />
        </Fact>
        {delivery.nextAttemptAt && (
          <Fact name="next try">
            <When at={delivery.nextAttemptAt} />
          </Fact>
        )}
      </Facts>
      {onResend && (
        <button type="button" onClick={onResend}>
          <Icon name="send" size={14} /> Send again
        </button>
      )}
      <h3>Tries</h3>
      {delivery.tries.length ? (
        <ol class="tries">
          {delivery.tries.map((each) => (
            <li key={each.at}>
              <b class={each.error ? "danger-text" : ""}>{each.status ?? "no answer"}</b> after{" "}
              {duration(each.elapsedMs / 1000)} · <Exact at={each.at} />
              {each.error && <div class="pre">{each.error}</div>}
              {each.body && <pre class="pre mono answer">{each.body}</pre>}
            </li>
          ))}
        </ol>
      ) : (
        <p class="muted">None yet.</p>
      )}
      <h3>Message</h3>
      {message.error && <Problem error={message.error} onRetry={message.reload} />}
      {!message.data && !message.error && <Skeleton rows={3} label="Message" />}
      {message.data && (
        <>
          <p class="mono">
            {message.data.method} {message.data.url}
          </p>
          <pre class="pre mono answer">
            {Object.entries(message.data.headers)
              .map(([name, value]) => `${name}: ${value}`)
              .join("\n")}
          </pre>
          <pre class="pre mono answer">{message.data.body.slice(0, SHOWN)}</pre>
          <p class="muted meta">
            {bytes(message.data.sizeBytes)}
            {message.data.body.length > SHOWN && `, the first ${bytes(SHOWN)} are shown`}{" "}
            <CopyButton text={message.data.body} label="Copy the body" word="copy" />
          </p>
        </>
      )}
    </aside>
  );
}
