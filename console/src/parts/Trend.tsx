/** A few numbers over time as small bars, with a sentence for screen readers. */
import { count } from "../text/format.ts";

const HEIGHT = 18;
const BAR = 3;

export function Trend({ values, label, tone = "failed" }: { values: number[]; label: string; tone?: string }) {
  const most = Math.max(...values, 1);
  const total = values.reduce((sum, each) => sum + each, 0);
  const width = values.length * (BAR + 1);
  return (
    <svg
      class={`trend tone-${tone}`}
      width={width}
      height={HEIGHT}
      viewBox={`0 0 ${width} ${HEIGHT}`}
      role="img"
      aria-label={`${label}: ${count(total)}, ${count(most)} at most in a step`}
    >
      <path class="trend-axis" d={`M0 ${HEIGHT - 0.5}h${width}`} />
      {values.map((value, index) => {
        if (!value) return null;
        const height = Math.max(2, Math.round((HEIGHT - 2) * (value / most)));
        return <rect key={index} x={index * (BAR + 1)} y={HEIGHT - 1 - height} width={BAR} height={height} />;
      })}
    </svg>
  );
}
