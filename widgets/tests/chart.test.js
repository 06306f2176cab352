import { expect, test } from "vitest";
import { chart, colourOf } from "../src/chart.js";
import { domain, logTicks, scale, ticks } from "../src/scales.js";
import { band, lonely, nearest, path, smoothed } from "../src/series.js";

const x = scale([0, 100], [0, 100]);
const y = scale([0, 10], [100, 0]);

test("ticks are round values within the range", () => {
  expect(ticks(0.13, 2.71, 5)).toEqual([0.5, 1, 1.5, 2, 2.5]);
  expect(ticks(-1, 1, 4)).toEqual([-1, -0.5, 0, 0.5, 1]);
  expect(logTicks(0.002, 50, 5)).toEqual([0.01, 0.1, 1, 10]);
  expect(logTicks(2, 8, 3)).toEqual([2, 4, 6, 8]);
});

test("a scale goes forth and back, also the logarithmic one", () => {
  const log = scale([0.01, 100], [200, 0], true);
  expect(log(1)).toBeCloseTo(100);
  expect(log.invert(100)).toBeCloseTo(1);
});

test("the range leaves out what cannot be drawn, and is never empty", () => {
  expect(domain([Number.NaN, 1, 3, Number.POSITIVE_INFINITY], { air: 0 })).toEqual([1, 3]);
  expect(domain([0, -1, 10, 1000], { log: true, air: 0 })).toEqual([10, 1000]);
  expect(domain([5])).toEqual([2.5, 7.5]);
  expect(domain([Number.NaN])).toBeNull();
});

test("smoothing starts at the first value and keeps gaps", () => {
  expect(
    smoothed(
      [
        [0, 4],
        [1, 4],
      ],
      0.9,
    ).map(([, v]) => v),
  ).toEqual([4, 4]);
  const [, gap, after] = smoothed(
    [
      [0, 1],
      [1, Number.NaN],
      [2, 3],
    ],
    0.5,
  );
  expect(gap[1]).toBeNaN();
  expect(after[1]).toBeCloseTo((0.25 * 1 + 0.5 * 3) / 0.75);
});

test("a line is broken at NaN, and a value between gaps is a dot", () => {
  const points = [
    [0, 1],
    [1, 2],
    [2, Number.NaN],
    [3, 3],
    [4, Number.POSITIVE_INFINITY],
  ];
  expect(path(points, x, y, false)).toBe("M0.0 90.0L1.0 80.0M3.0 70.0");
  expect(lonely(points, false)).toEqual([[3, 3]]);
});

test("a spike among 100,000 points is drawn, with few points a pixel", () => {
  const points = Array.from({ length: 100_000 }, (_, n) => [n / 1000, n === 54_321 ? 10 : 1]);
  const drawn = path(points, x, y, false);
  expect(drawn).toContain("L54.3 0.0");
  expect(drawn.split(/[ML]/).length).toBeLessThan(450);
});

test("many ranks are a mean between the lowest and the highest", () => {
  const { mean, low, high } = band(
    [
      [[5, 1]],
      [[5, 2]],
      [
        [5, 6],
        [6, Number.NaN],
      ],
    ],
    x,
  );
  expect([mean, low, high]).toEqual([[[5, 3]], [[5, 1]], [[5, 6]]]);
});

test("the nearest step is found", () => {
  const points = [
    [0, 1],
    [10, 2],
    [20, 3],
  ];
  expect([nearest(points, 4), nearest(points, 6), nearest(points, 99)]).toEqual(
    [0, 1, 2].map((index) => points[index]),
  );
  expect(nearest([], 1)).toBeUndefined();
});

test("the pointer shows each rank's value at its step", () => {
  const { node, draw } = chart("loss");
  const byRank = new Map([
    [
      0,
      [
        [0, 4],
        [10, 2],
      ],
    ],
    [
      3,
      [
        [0, 5],
        [10, Number.NaN],
      ],
    ],
  ]);
  draw(byRank, [0, 3], { smoothing: 0, log: false }, 300);
  expect(node.querySelectorAll(".anb-curve")).toHaveLength(2);
  expect(node.querySelector(".anb-chart-latest").textContent).toBe("NaN");
  const plot = node.querySelector("svg");
  plot.dispatchEvent(Object.assign(new Event("pointermove"), { clientX: 295 }));
  expect(node.querySelector(".anb-tip").textContent).toBe("step 10rank 02rank 3NaN");
  plot.dispatchEvent(new Event("pointerleave"));
  expect(node.querySelector(".anb-tip").hidden).toBe(true);
  expect(colourOf(3, [0, 3])).toBe(1);
});
