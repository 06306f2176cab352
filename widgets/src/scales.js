// @ts-check

const STEPS = [Math.sqrt(50), Math.sqrt(10), Math.sqrt(2)].map((least, i) => [
  least,
  [10, 5, 2][i],
]);

/**
 * Round values for an axis, about `most` of them.
 * @param {number} low
 * @param {number} high
 * @param {number} most
 * @returns {number[]}
 */
export function ticks(low, high, most) {
  if (!(high > low)) return [low];
  const raw = (high - low) / Math.max(1, most);
  const power = 10 ** Math.floor(Math.log10(raw));
  // The round step whose number of values comes nearest to what is wanted.
  const [, factor] = STEPS.find(([least]) => raw / power >= least) ?? [0, 1];
  const step = power * factor;
  const found = [];
  for (let n = Math.ceil(low / step - 1e-9); n * step <= high + step * 1e-9; n += 1)
    found.push(Number((n * step).toPrecision(12)));
  return found;
}

/**
 * Values for a logarithmic axis: powers of ten, or round values where there is less than two.
 * @param {number} low
 * @param {number} high
 * @param {number} most
 * @returns {number[]}
 */
export function logTicks(low, high, most) {
  const first = Math.ceil(Math.log10(low) - 1e-9);
  const last = Math.floor(Math.log10(high) + 1e-9);
  if (last - first < 1) return ticks(low, high, most).filter((tick) => tick > 0);
  const every = Math.ceil((last - first + 1) / Math.max(2, most));
  const found = [];
  for (let power = first; power <= last; power += every) found.push(10 ** power);
  return found;
}

/**
 * @typedef {{(value: number): number, invert(place: number): number, ticks(most: number): number[]}} Scale
 */

/**
 * From values to places on an axis.
 * @param {[number, number]} domain
 * @param {[number, number]} range
 * @param {boolean} [log]
 * @returns {Scale}
 */
export function scale([low, high], [from, to], log = false) {
  const forth = log ? Math.log10 : (/** @type {number} */ x) => x;
  const back = log ? (/** @type {number} */ x) => 10 ** x : (/** @type {number} */ x) => x;
  const [a, b] = [forth(low), forth(high)];
  const place = (/** @type {number} */ value) =>
    from + ((forth(value) - a) / (b - a)) * (to - from);
  return Object.assign(place, {
    invert: (/** @type {number} */ at) => back(a + ((at - from) / (to - from)) * (b - a)),
    ticks: (/** @type {number} */ most) => (log ? logTicks : ticks)(low, high, most),
  });
}

/**
 * The range of an axis for values, with a little air; never empty.
 * @param {Iterable<number>} values  those that cannot be drawn are left out
 * @param {{log?: boolean, air?: number}} [options]
 * @returns {[number, number] | null} null if none can be drawn
 */
export function domain(values, { log = false, air = 0.06 } = {}) {
  let low = Number.POSITIVE_INFINITY;
  let high = Number.NEGATIVE_INFINITY;
  for (const value of values) {
    if (!drawable(value, log)) continue;
    if (value < low) low = value;
    if (value > high) high = value;
  }
  if (low > high) return null;
  if (low === high)
    return log
      ? [low / 2, high * 2]
      : [low - (Math.abs(low) || 1) / 2, high + (Math.abs(high) || 1) / 2];
  if (!log) return [low - (high - low) * air, high + (high - low) * air];
  const factor = (high / low) ** air;
  return [low / factor, high * factor];
}

/**
 * Whether a value has a place on the axis.
 * @param {number} value
 * @param {boolean} log
 */
export function drawable(value, log) {
  return Number.isFinite(value) && (!log || value > 0);
}
