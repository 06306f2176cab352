import { afterEach, beforeEach, expect, test, vi } from "vitest";
import { FakeModel } from "../dev/model.js";
import { MOST_LINES, MOST_POINTS, RunStore } from "../src/store.js";

const running = { state: "running", seconds: 3, banners: [], rate: null, step: null };
const open = (delta = {}) => {
  const model = new FakeModel({ info: { ranks: [0, 1] }, status: running, delta });
  return { model, store: new RunStore(model) };
};
const lines = (...texts) => texts.map((text) => [[0, 1], "stdout", text]);
const texts = (store) => store.lines.map((line) => line.text);

beforeEach(() => vi.useFakeTimers());
afterEach(() => vi.useRealTimers());

test("updates follow each other; one that comes twice counts once", () => {
  const { model, store } = open({ from: 0, to: 1, lines: lines("a") });
  const next = { from: 1, to: 2, lines: lines("b"), points: { loss: { 0: [[0, 1.5]] } } };
  model.set({ delta: next });
  model.set({ delta: { ...next } });
  expect(texts(store)).toEqual(["a", "b"]);
  expect(store.points.get("loss").get(0)).toEqual([[0, 1.5]]);
  expect(model.sent).toEqual([]);
});

test("an update from 0 stands for all before it", () => {
  const { model, store } = open({ from: 0, to: 1, lines: lines("a") });
  model.set({ delta: { from: 0, to: 3, lines: lines("a", "b", "c"), skipped: 2 } });
  model.set({ delta: { from: 0, to: 2, lines: lines("a", "b") } }); // late
  expect(texts(store)).toEqual(["a", "b", "c"]);
  expect(store.skipped).toBe(2);
});

test("a gap asks for a snapshot, and what came meanwhile is added to it", () => {
  const { model, store } = open({ from: 0, to: 1, lines: lines("a") });
  model.set({ delta: { from: 4, to: 5, first_line: 4, lines: lines("e") } });
  model.set({ delta: { from: 5, to: 6, first_line: 5, lines: lines("f") } });
  expect(model.sent).toEqual([{ type: "snapshot" }]);
  expect(texts(store)).toEqual(["a"]);
  const whole = { type: "snapshot", from: 0, to: 5, first_line: 0 };
  model.emit("msg:custom", { ...whole, lines: lines("a", "b", "c", "d", "e") });
  expect(texts(store)).toEqual(["a", "b", "c", "d", "e", "f"]);
  vi.advanceTimersByTime(5000);
  expect(store.lines.at(-1)).toMatchObject({ number: 5, text: "f" });
});

test("a cumulative update closes a gap as a snapshot does", () => {
  const { model, store } = open({ from: 3, to: 4, lines: lines("d") });
  model.set({ delta: { from: 0, to: 5, lines: lines("a", "b", "c", "d", "e") } });
  model.set({ delta: { from: 5, to: 6, lines: lines("f") } });
  expect(texts(store)).toEqual(["a", "b", "c", "d", "e", "f"]);
});

test("a kernel that cannot answer leaves what arrived", () => {
  const { model, store } = open({ from: 7, to: 8, first_line: 40, lines: lines("x") });
  model.set({ delta: { from: 8, to: 9, lines: lines("y") } });
  vi.advanceTimersByTime(2000);
  expect(texts(store)).toEqual(["x", "y"]);
  expect(store.lines[0].number).toBe(40);
  model.set({ delta: { from: 9, to: 10, lines: lines("z") } });
  expect(texts(store)).toEqual(["x", "y", "z"]);
});

test("lines and points are bounded; extremes of points stay", () => {
  const { model, store } = open();
  const many = Array.from({ length: MOST_LINES + 10 }, (_, n) => `${n}`);
  const points = Array.from({ length: MOST_POINTS + 1 }, (_, n) => [n, n === 777 ? 99 : 1]);
  model.set({ delta: { from: 0, to: 1, lines: lines(...many), points: { loss: { 1: points } } } });
  expect(store.lines).toHaveLength(MOST_LINES);
  expect(store.lines[0]).toMatchObject({ number: 10, text: "10" });
  const kept = store.points.get("loss").get(1);
  expect(kept.length).toBeLessThan(MOST_POINTS);
  expect(kept).toContainEqual([777, 99]);
  expect(kept.at(-1)).toEqual([MOST_POINTS, 1]);
});

test("NaN and infinities come as words or null", () => {
  const points = {
    loss: {
      0: [
        [0, null],
        [1, "inf"],
        [2, "-inf"],
        [3, 2],
      ],
    },
  };
  const { store } = open({ from: 0, to: 1, points });
  const values = store.points
    .get("loss")
    .get(0)
    .map(([, value]) => value);
  expect(values).toEqual([Number.NaN, Number.POSITIVE_INFINITY, Number.NEGATIVE_INFINITY, 2]);
});

test("elapsed time goes on between updates and stands still at the end", () => {
  const { model, store } = open();
  vi.advanceTimersByTime(1500);
  expect(store.elapsed).toBeCloseTo(4.5);
  model.set({ status: { ...running, state: "done", seconds: 4.6 } });
  vi.advanceTimersByTime(9000);
  expect(store.elapsed).toBe(4.6);
});

test("a closed store hears nothing more", () => {
  const { model, store } = open({ from: 0, to: 1, lines: lines("a") });
  store.close();
  model.set({ delta: { from: 1, to: 2, lines: lines("b") } });
  expect(texts(store)).toEqual(["a"]);
  expect([...model.listeners.values()].flat()).toEqual([]);
});
