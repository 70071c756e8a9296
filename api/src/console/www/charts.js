// Small charts. Each says in words what matters of it.

import { hour } from "./format.js";
import { html } from "./parts.js";

const WIDTH = 300;
const HEIGHT = 64;

/** Bars over time; `stack` has the names of the values of a point, the lowest first. */
export function Bars({ heading, points, stack, format, total = false }) {
  const sums = points.map((point) => stack.reduce((sum, name) => sum + (point[name] ?? 0), 0));
  const largest = Math.max(...sums, 0);
  // Counts are added up; of durations the newest is what one wants to know.
  const newest = total ? sums.reduce((all, sum) => all + sum, 0) : sums.findLast((sum) => sum > 0);
  const headline = largest > 0 ? format(newest) : total ? "0" : "–";
  const step = WIDTH / points.length;
  const scale = largest > 0 ? (HEIGHT - 4) / largest : 0;
  const some = total ? `In total ${headline}, at most ${format(largest)} a minute` : `Newest ${headline}, longest ${format(largest)}`;
  const words = largest > 0 ? some : "Nothing in this time";
  return html`<figure class="chart">
    <figcaption>
      <span>${heading}</span><strong>${headline}</strong>
    </figcaption>
    <svg viewBox=${`0 0 ${WIDTH} ${HEIGHT}`} preserveAspectRatio="none" role="img" aria-label=${`${heading}. ${words}.`}>
      ${points.map((point, index) => {
        let y = HEIGHT;
        return stack.map((name) => {
          const height = (point[name] ?? 0) * scale;
          y -= height;
          return height > 0 && html`<rect class=${name} x=${index * step + 1} y=${y} width=${step - 2} height=${height} rx="1" />`;
        });
      })}
      <line x1="0" x2=${WIDTH} y1=${HEIGHT - 0.5} y2=${HEIGHT - 0.5} />
    </svg>
    <p class="axis muted" aria-hidden="true">
      <span>${hour(points[0].time)}</span><span>${largest > 0 ? `peak ${format(largest)}` : ""}</span><span>now</span>
    </p>
  </figure>`;
}

/** A part of a whole. What it shows stands beside it in words. */
export function Share({ value, most }) {
  const width = most > 0 ? (100 * value) / most : 0;
  return html`<svg class="share" viewBox="0 0 100 8" preserveAspectRatio="none" aria-hidden="true">
    <rect class="track" width="100" height="8" /><rect width=${width} height="8" />
  </svg>`;
}
