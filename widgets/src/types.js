// @ts-check
// What the kernel and the view tell each other.
//
// The kernel sets the traits info, status, rows, bars and delta; the view sets none. A delta holds
// what is new between two numbered updates. One that begins at 0 stands for all before it; one that
// does not follow the last makes the view send {type: "snapshot"}, which the kernel answers with a
// message of the same type and form that begins at 0. {type: "stop"} asks for the run's end.
//
// first_line counts the lines that were handed to the view; skipped counts those left out since
// `from`, which are in the run's log only.

/**
 * @typedef {{title: string, ranks: number[], device: string, precision: string, sharing?: string,
 *            can_stop: boolean, log_folder: string}} Info
 * @typedef {{kind: "stall" | "error" | "note", text: string}} Banner
 * @typedef {{state: string, seconds: number, banners: Banner[],
 *            rate: number | null, step: number | null}} Status
 * @typedef {{rank: number, place?: string, state: string, step: number | null, rate: number | null,
 *            memory: number | null, device_memory: number | null, line: string}} Row
 * @typedef {{key: string, ranks: number[], label: string, done: number, total: number | null,
 *            unit: string, rate: number | null, closed: boolean,
 *            by_rank: Record<string, number>}} Bar
 * @typedef {[number, number | string | null]} SentPoint
 * @typedef {[number, number[], number[]]} Histogram  step, counts, edges
 * @typedef {[number, string]} Picture  step, data URL
 * @typedef {[number[], string, string]} SentLine  ranks, stream, text
 * @typedef {{from: number, to: number, first_line?: number, lines?: SentLine[], skipped?: number,
 *            points?: Record<string, Record<string, SentPoint[]>>,
 *            histograms?: Record<string, Record<string, Histogram>>,
 *            images?: Record<string, Record<string, Picture>>}} Delta
 *
 * @typedef {{number: number, ranks: number[], stream: string, text: string}} Line
 * @typedef {[number, number]} Point  step, value; NaN and infinities are kept
 *
 * @typedef {{get(name: string): any, on(event: string, callback: (...args: any[]) => void): void,
 *            off(event?: string | null, callback?: ((...args: any[]) => void) | null): void,
 *            send(content: any): void}} Model
 */

export {};
