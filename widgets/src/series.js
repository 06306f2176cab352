// @ts-check
// From the points of ranks to what a chart draws.
/** @import {Point} from "./types.js" */
/** @import {Scale} from "./scales.js" */
import { drawable } from "./scales.js";

/**
 * Exponential moving average without a bias at the start; gaps stay gaps.
 * @param {Point[]} points
 * @param {number} weight  of the past, 0 to below 1
 * @returns {Point[]}
 */
export function smoothed(points, weight) {
  if (weight <= 0) return points;
  let sum = 0;
  let share = 0;
  return points.map(([step, value]) => {
    if (!Number.isFinite(value)) return [step, value];
    sum = weight * sum + (1 - weight) * value;
    share = weight * share + (1 - weight);
    return [step, sum / share];
  });
}

/**
 * The points as an SVG path, broken at gaps, with at most four points a pixel.
 * @param {Point[]} points
 * @param {Scale} x
 * @param {Scale} y
 * @param {boolean} log
 */
export function path(points, x, y, log) {
  let text = "";
  let column = Number.NaN;
  let isOpen = false;
  /** @type {[number, number][]} first, lowest, highest and last of a pixel, in order */
  let kept = [];
  let [low, high] = [0, 0];
  const flush = () => {
    if (kept.length === 0) return;
    const chosen = [...new Set([0, Math.min(low, high), Math.max(low, high), kept.length - 1])];
    for (const index of chosen) {
      text += `${isOpen ? "L" : "M"}${kept[index][0].toFixed(1)} ${kept[index][1].toFixed(1)}`;
      isOpen = true;
    }
    kept = [];
    [low, high] = [0, 0];
  };
  for (const [step, value] of points) {
    if (!drawable(value, log)) {
      flush();
      isOpen = false;
      continue;
    }
    const [px, py] = [x(step), y(value)];
    if (Math.round(px) !== column) {
      flush();
      column = Math.round(px);
    }
    kept.push([px, py]);
    if (py < kept[low][1]) low = kept.length - 1;
    if (py > kept[high][1]) high = kept.length - 1;
  }
  flush();
  return text;
}

/**
 * The points that stand alone between gaps: a line would not show them.
 * @param {Point[]} points
 * @param {boolean} log
 * @returns {Point[]}
 */
export function lonely(points, log) {
  const isDrawn = (/** @type {Point | undefined} */ point) =>
    point !== undefined && drawable(point[1], log);
  return points.filter(
    (point, index) => isDrawn(point) && !isDrawn(points[index - 1]) && !isDrawn(points[index + 1]),
  );
}

/**
 * Many ranks as one: mean, lowest and highest in each pixel column.
 * @param {Point[][]} byRank
 * @param {Scale} x
 * @returns {{mean: Point[], low: Point[], high: Point[]}}
 */
export function band(byRank, x) {
  /** @type {Map<number, {step: number, sum: number, n: number, low: number, high: number}>} */
  const columns = new Map();
  for (const points of byRank) {
    for (const [step, value] of points) {
      if (!Number.isFinite(value)) continue;
      const key = Math.round(x(step));
      const column = columns.get(key);
      if (!column) {
        columns.set(key, { step, sum: value, n: 1, low: value, high: value });
        continue;
      }
      column.sum += value;
      column.n += 1;
      if (value < column.low) column.low = value;
      if (value > column.high) column.high = value;
    }
  }
  const sorted = [...columns.values()].sort((a, b) => a.step - b.step);
  return {
    mean: sorted.map(({ step, sum, n }) => [step, sum / n]),
    low: sorted.map(({ step, low }) => [step, low]),
    high: sorted.map(({ step, high }) => [step, high]),
  };
}

/**
 * The point whose step is nearest.
 * @param {Point[]} points  ordered by step
 * @param {number} step
 * @returns {Point | undefined}
 */
export function nearest(points, step) {
  let low = 0;
  let high = points.length - 1;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (points[middle][0] < step) low = middle + 1;
    else high = middle;
  }
  const [before, after] = [points[low - 1], points[low]];
  if (!before || !after) return after ?? before;
  return step - before[0] <= after[0] - step ? before : after;
}
