import type { ComponentChildren } from "preact";

/** Title and actions of a page. */
export function PageHead({
  title,
  children,
  sub,
}: {
  title: ComponentChildren;
  children?: ComponentChildren;
  sub?: ComponentChildren;
}) {
  return (
    <header class="page-head">
      <div>
        <h1>{title}</h1>
        {sub && <p class="muted">{sub}</p>}
      </div>
      {children && <div class="page-actions">{children}</div>}
    </header>
  );
}
