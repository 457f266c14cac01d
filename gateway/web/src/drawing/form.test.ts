import { expect, test } from "vitest";
import { axesOf, cells } from "./axes";
import { brushWidth, moved, placeOf, within } from "./mask";
import { linesOf, missing, namesIn } from "./wildcards";

test("a mask is painted at no more than so many pixels, in its picture's shape", () => {
  expect(within({ width: 640, height: 480 })).toEqual({ width: 640, height: 480 });
  expect(within({ width: 4000, height: 3000 })).toEqual({ width: 1024, height: 768 });
  expect(within({ width: 9000, height: 2 })).toEqual({ width: 1024, height: 1 });
});

test("a pointer paints where it is, however large the picture is shown", () => {
  const shown = { left: 10, top: 20, width: 200, height: 100 } as DOMRect;
  expect(placeOf({ clientX: 110, clientY: 70 }, shown, { width: 1000, height: 500 })).toEqual({ x: 500, y: 250 });
  expect(placeOf({ clientX: 0, clientY: 20 }, shown, { width: 1000, height: 500 }), "beyond the edge while it is dragged").toEqual({ x: -50, y: 0 });
});

test("a brush is a share of the longer side, and at least a pixel", () => {
  expect(brushWidth(10, { width: 300, height: 800 })).toBe(80);
  expect(brushWidth(1, { width: 32, height: 32 })).toBe(1);
});

test("arrow keys move the brush as far as the edge", () => {
  const size = { width: 100, height: 50 };
  expect(moved({ x: 50, y: 25 }, "ArrowLeft", 20, size)).toEqual({ x: 30, y: 25 });
  expect(moved({ x: 50, y: 45 }, "ArrowDown", 20, size)).toEqual({ x: 50, y: 50 });
  expect(moved({ x: 5, y: 0 }, "ArrowUp", 20, size)).toEqual({ x: 5, y: 0 });
  expect(moved({ x: 5, y: 0 }, "a", 20, size)).toBeNull();
});

test("a grid's axes are lines and numbers, each once, and what is no number is named", () => {
  const axes = axesOf({ prompts: " a cat \n\na dog\na cat", modelIds: [4, 4, 101], weights: "0.5,1;-.25 1,5x", seeds: "7, 8  7 -1 1.5" });
  expect(axes).toEqual({
    prompts: ["a cat", "a dog"], modelIds: [4, 101], weights: [0.5, 1, -0.25], seeds: [7n, 8n], wrong: { weights: ["5x"], seeds: ["-1", "1.5"] },
  });
  expect(cells(axes)).toBe(2 * 2 * 3 * 2);
  expect(cells({ prompts: [], modelIds: [4], weights: [], seeds: [] }), "an empty axis has the settings' own value").toBe(1);
});

test("wildcards are found as the server finds them", () => {
  expect(namesIn("a __animal__ in a __big-hat__", "__animal__")).toEqual(["animal", "big-hat"]);
  expect(namesIn("__a_b__ __a__b__ ____ \\__no__ __ x __")).toEqual(["a_b", "a"]);
  expect(linesOf(" cat\n\n# none\ndog ")).toEqual(["cat", "dog"]);
});

test("lists that are asked for and have no line are named, also by the lines of others", () => {
  const lists = [{ name: "a", lines: "__b__ and __a__" }, { name: "empty", lines: "# nothing" }];
  expect(missing(["__a__ __empty__"], lists)).toEqual(["b", "empty"]);
  expect(missing(["no list"], lists)).toEqual([]);
});
