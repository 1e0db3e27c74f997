/** A trend in a line of text: one bar a step. `label` says it to those who do not see it. */
export function Sparkline({
  values,
  label,
  tone = "failed",
}: {
  values: number[];
  label: string;
  tone?: "failed" | "finished";
}) {
  const shown = values.slice(-30);
  const most = Math.max(1, ...shown);
  const width = 3;
  return (
    <svg class={`spark spark-${tone}`} width={shown.length * width} height="16" role="img" aria-label={label}>
      {shown.map((value, index) => {
        const height = value ? Math.max(2, (value / most) * 16) : 1;
        return (
          <rect
            key={index}
            class={value ? "" : "spark-none"}
            x={index * width}
            y={16 - height}
            width={width - 1}
            height={height}
          />
        );
      })}
    </svg>
  );
}
