import fc from "fast-check";
import { expect, it } from "vitest";
import { hrefOf, routeOf, views } from "./route.ts";

it("an address leads where it was made for", () => {
  for (const view of views) expect(routeOf(hrefOf(view))).toEqual({ view, id: null });
  fc.assert(
    fc.property(fc.string({ minLength: 1, unit: "binary-ascii" }), (id) => {
      expect(routeOf(hrefOf("requests", id))).toEqual({ view: "requests", id });
    }),
  );
});

it("any other address is the chat", () => {
  for (const hash of ["", "#", "#/", "#/nothing", "pools", "#pools"]) expect(routeOf(hash).view).toBe("chat");
  expect(routeOf("#/requests/%")).toEqual({ view: "requests", id: null });
  fc.assert(fc.property(fc.string(), (hash) => views.includes(routeOf(hash).view)));
});
