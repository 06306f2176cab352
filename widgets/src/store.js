// @ts-check
/** @import {Bar, Delta, Histogram, Info, Line, Model, Picture, Point, Row, SentPoint, Status} from "./types.js" */

export const MOST_LINES = 5000;
export const MOST_POINTS = 4000; // of a metric of a rank; beyond that they are thinned
const MOST_WAITING = 100; // updates kept while a snapshot is on its way
const SNAPSHOT_WAIT = 2000; // ms
const STOP_WAIT = 2000; // ms

/** @type {Info} */
const NO_INFO = {
  title: "",
  ranks: [],
  device: "",
  precision: "",
  can_stop: false,
  log_folder: "",
};
/** @type {Status} */
const NO_STATUS = { state: "running", seconds: 0, banners: [], rate: null, step: null };

/**
 * All that is known of a run. Every view of it shows the same store.
 */
export class RunStore {
  /** @param {Model} model */
  constructor(model) {
    this.model = model;
    /** @type {Line[]} */
    this.lines = [];
    this.skipped = 0;
    /** @type {Map<string, Map<number, Point[]>>} */
    this.points = new Map();
    /** @type {Map<string, Map<number, Histogram>>} */
    this.histograms = new Map();
    /** @type {Map<string, Map<number, Picture>>} */
    this.images = new Map();
    /** Grows with each update: views compare it. */
    this.version = 0;
    /** The version in which a metric, histogram or image last changed. */
    /** @type {Map<string, number>} */
    this.changedIn = new Map();
    /** @type {"" | "asked" | "unheard"} */
    this.stopping = "";
    this._reached = 0;
    /** @type {Delta[] | null} updates that wait for a snapshot */
    this._waiting = null;
    /** @type {Set<() => void>} */
    this._listeners = new Set();
    /** @type {Set<ReturnType<typeof setTimeout>>} */
    this._timers = new Set();
    this._statusAt = performance.now();

    this._onDelta = () => this.take(model.get("delta"));
    this._onStatus = () => {
      this._statusAt = performance.now();
      if (this.status.state !== "running") this.stopping = "";
      this._changed();
    };
    this._onChange = () => this._changed();
    /** @param {any} message */
    this._onMessage = (message) => {
      if (message?.type === "snapshot") this._takeSnapshot(message);
    };
    model.on("change:delta", this._onDelta);
    model.on("change:status", this._onStatus);
    for (const name of ["info", "rows", "bars"]) model.on(`change:${name}`, this._onChange);
    model.on("msg:custom", this._onMessage);
    this._onDelta();
  }

  close() {
    this.model.off("change:delta", this._onDelta);
    this.model.off("change:status", this._onStatus);
    for (const name of ["info", "rows", "bars"]) this.model.off(`change:${name}`, this._onChange);
    this.model.off("msg:custom", this._onMessage);
    for (const timer of this._timers) clearTimeout(timer);
    this._timers.clear();
    this._listeners.clear();
  }

  /** @returns {Info} */
  get info() {
    return { ...NO_INFO, ...this.model.get("info") };
  }

  /** @returns {Status} */
  get status() {
    return { ...NO_STATUS, ...this.model.get("status") };
  }

  /** @returns {Row[]} */
  get rows() {
    return this.model.get("rows") ?? [];
  }

  /** @returns {Bar[]} */
  get bars() {
    return this.model.get("bars") ?? [];
  }

  /** Whether the run is under way. */
  get isLive() {
    return ["running", "stopping"].includes(this.status.state);
  }

  /** Seconds since the run began; goes on between updates. */
  get elapsed() {
    const since = this.isLive ? (performance.now() - this._statusAt) / 1000 : 0;
    return this.status.seconds + since;
  }

  /**
   * Call `listener` after each change.
   * @param {() => void} listener
   * @returns {() => void} ends it
   */
  subscribe(listener) {
    this._listeners.add(listener);
    return () => this._listeners.delete(listener);
  }

  /** Ask the kernel to stop the run. */
  stop() {
    if (this.stopping === "asked" || this.status.state !== "running") return;
    this.stopping = "asked";
    this.model.send({ type: "stop" });
    this._later(STOP_WAIT, () => {
      if (this.stopping === "asked" && this.status.state === "running") this.stopping = "unheard";
      this._changed();
    });
    this._changed();
  }

  /**
   * Add an update. One that does not follow the last waits for a snapshot.
   * @param {Delta | null | undefined} delta
   */
  take(delta) {
    if (typeof delta?.to !== "number") return;
    if (delta.from === 0) {
      // Cumulative: stands for all before, unless more is known already.
      if (delta.to < this._reached) return;
      this._clear();
      this._add(delta);
      if (this._waiting) this._catchUp();
    } else if (this._waiting) {
      this._waiting.push(delta);
      if (this._waiting.length > MOST_WAITING) this._waiting.shift();
    } else if (delta.from === this._reached) {
      this._add(delta);
    } else if (delta.to > this._reached) {
      this._waiting = [delta];
      this.model.send({ type: "snapshot" });
      // A kernel that is busy and has no subshells does not answer: show what there is.
      const waiting = this._waiting;
      this._later(SNAPSHOT_WAIT, () => this._waiting === waiting && this._catchUp(true));
    }
    this._changed();
  }

  /** @param {Delta} snapshot */
  _takeSnapshot(snapshot) {
    if (typeof snapshot.to !== "number" || snapshot.to < this._reached) return;
    this._clear();
    this._add(snapshot);
    this._catchUp();
    this._changed();
  }

  /** Add what waited and follows; with `all`, also what does not. */
  _catchUp(all = false) {
    const waiting = this._waiting ?? [];
    this._waiting = null;
    for (const delta of waiting) {
      if (delta.to <= this._reached) continue;
      if (all || delta.from <= this._reached) this._add(delta);
      else this.take(delta);
    }
    this._changed();
  }

  _clear() {
    this.lines = [];
    this.skipped = 0;
    this.points.clear();
    this.histograms.clear();
    this.images.clear();
  }

  /** @param {Delta} delta */
  _add(delta) {
    this.version += 1;
    for (const part of [delta.points, delta.histograms, delta.images])
      for (const name of Object.keys(part ?? {})) this.changedIn.set(name, this.version);
    this._addLines(delta);
    for (const [name, byRank] of Object.entries(delta.points ?? {})) {
      for (const [rank, points] of Object.entries(byRank)) {
        const known = entry(this.points, name).get(Number(rank)) ?? [];
        for (const point of points) known.push(received(point));
        entry(this.points, name).set(Number(rank), thinned(known));
      }
    }
    for (const [name, byRank] of Object.entries(delta.histograms ?? {}))
      for (const [rank, value] of Object.entries(byRank))
        entry(this.histograms, name).set(Number(rank), value);
    for (const [name, byRank] of Object.entries(delta.images ?? {}))
      for (const [rank, value] of Object.entries(byRank))
        entry(this.images, name).set(Number(rank), value);
    this._reached = delta.to;
  }

  /** @param {Delta} delta */
  _addLines(delta) {
    this.skipped += delta.skipped ?? 0;
    const last = this.lines.at(-1);
    let number = delta.first_line ?? (last ? last.number + 1 : 0);
    for (const [ranks, stream, text] of delta.lines ?? []) {
      this.lines.push({ number, ranks, stream, text });
      number += 1;
    }
    if (this.lines.length > MOST_LINES) this.lines = this.lines.slice(-MOST_LINES);
  }

  _changed() {
    for (const listener of this._listeners) listener();
  }

  /**
   * @param {number} ms
   * @param {() => void} action
   */
  _later(ms, action) {
    const timer = setTimeout(() => {
      this._timers.delete(timer);
      action();
    }, ms);
    this._timers.add(timer);
  }
}

/**
 * @template V
 * @param {Map<string, Map<number, V>>} map
 * @param {string} name
 * @returns {Map<number, V>}
 */
function entry(map, name) {
  const found = map.get(name) ?? new Map();
  map.set(name, found);
  return found;
}

const WORDS = new Map([
  ["inf", Number.POSITIVE_INFINITY],
  ["-inf", Number.NEGATIVE_INFINITY],
]);

/**
 * JSON has no NaN and no infinities.
 * @param {SentPoint} point
 * @returns {Point}
 */
function received([step, value]) {
  return [step, typeof value === "number" ? value : (WORDS.get(String(value)) ?? Number.NaN)];
}

/**
 * At most MOST_POINTS of them, with each stretch's lowest and highest kept.
 * @param {Point[]} points
 * @returns {Point[]}
 */
export function thinned(points) {
  if (points.length <= MOST_POINTS) return points;
  const half = points.length >> 1; // the older half at half the density; the newer is whole
  /** @type {Point[]} */
  const kept = [];
  for (let start = 0; start < half; start += 4) {
    const part = points.slice(start, Math.min(start + 4, half));
    let low = 0;
    let high = 0;
    part.forEach(([, value], index) => {
      if (value < part[low][1]) low = index;
      if (value > part[high][1] || Number.isNaN(value)) high = index;
    });
    kept.push(part[Math.min(low, high)]);
    if (low !== high) kept.push(part[Math.max(low, high)]);
  }
  return kept.concat(points.slice(half));
}
