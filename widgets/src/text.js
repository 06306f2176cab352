// @ts-check

/**
 * Seconds as 8.3 s, 1:05 or 2:00:09.
 * @param {number} seconds
 */
export function duration(seconds) {
  if (seconds < 60) return `${seconds.toFixed(1)} s`;
  return clock(seconds);
}

/**
 * Seconds as 0:08, 1:05 or 2:00:09.
 * @param {number} seconds
 */
export function clock(seconds) {
  const whole = Math.floor(seconds);
  const two = (/** @type {number} */ n) => String(n).padStart(2, "0");
  const minutes = Math.floor(whole / 60) % 60;
  const hours = Math.floor(whole / 3600);
  if (hours) return `${hours}:${two(minutes)}:${two(whole % 60)}`;
  return `${minutes}:${two(whole % 60)}`;
}

/**
 * Bytes as 812 MB or 1.4 GB.
 * @param {number} bytes
 */
export function memory(bytes) {
  if (bytes >= 1e12) return `${(bytes / 1e12).toFixed(1)} TB`;
  if (bytes >= 1e9) return `${(bytes / 1e9).toFixed(bytes < 1e11 ? 1 : 0)} GB`;
  if (bytes >= 1e6) return `${Math.round(bytes / 1e6)} MB`;
  return `${Math.round(bytes / 1e3)} kB`;
}

/**
 * A rate or size with about three digits: 0.042, 4.10, 41.2, 1,230, 45.1M.
 * @param {number} value
 */
export function short(value) {
  const size = Math.abs(value);
  if (size >= 1e15) return value.toExponential(2);
  if (size >= 1e9) return `${digits(value / 1e9)}G`;
  if (size >= 1e6) return `${digits(value / 1e6)}M`;
  if (size >= 1e5) return `${digits(value / 1e3)}k`;
  if (size >= 100) return Math.round(value).toLocaleString("en-US");
  if (size >= 1) return digits(value);
  return size === 0 ? "0" : size >= 0.001 ? value.toPrecision(2) : value.toExponential(1);
}

/**
 * A measured value with four digits, also where it is not finite.
 * @param {number} value
 */
export function exact(value) {
  if (Number.isNaN(value)) return "NaN";
  if (!Number.isFinite(value)) return value > 0 ? "∞" : "−∞";
  const size = Math.abs(value);
  if (size !== 0 && (size < 1e-3 || size >= 1e6)) return value.toExponential(2);
  return String(Number(value.toPrecision(4)));
}

/**
 * A whole count, or one with at most one decimal: 45, 1,200, 2.5.
 * @param {number} value
 */
export function count(value) {
  return value.toLocaleString("en-US", { maximumFractionDigits: 1 });
}

/**
 * Ranks as 0-3,5.
 * @param {number[]} ranks
 */
export function rankText(ranks) {
  const parts = [];
  for (let i = 0; i < ranks.length; i += 1) {
    const first = ranks[i];
    while (ranks[i + 1] === ranks[i] + 1) i += 1;
    parts.push(first === ranks[i] ? `${first}` : `${first}-${ranks[i]}`);
  }
  return parts.join(",");
}

/**
 * @param {number} n
 * @param {string} noun
 */
export function plural(n, noun) {
  return `${count(n)} ${noun}${n === 1 ? "" : "s"}`;
}

/**
 * The same number of digits whatever the value, so that nothing jumps when it changes.
 * @param {number} value  1 to below 1,000
 */
function digits(value) {
  const size = Math.abs(value);
  return value.toFixed(size >= 99.95 ? 0 : size >= 9.995 ? 1 : 2);
}
