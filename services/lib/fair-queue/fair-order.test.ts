import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { FairOrder, mayWait, type Place } from "./fair-order.ts";

interface Request {
  tenant: string;
  tokens: number;
  place: Place;
}

/** One server: arrivals and services interleaved as `events` says. Returns requests in the order in which they were served. */
function serve(events: readonly ({ tenant: string; tokens: number } | "serve")[]): Request[] {
  const order = new FairOrder();
  const queue: Request[] = [];
  const served: Request[] = [];
  const serveOne = () => {
    const next = queue.sort((a, b) => a.place.start - b.place.start || a.place.serial - b.place.serial).shift();
    if (next === undefined) return;
    order.admitted(next.place);
    served.push(next);
  };
  for (const event of events) {
    if (event === "serve") serveOne();
    else queue.push({ ...event, place: order.place(event.tenant, event.tokens) });
  }
  while (queue.length > 0) serveOne();
  return served;
}

const arrival = (tenants: number, tokens: fc.Arbitrary<number>) =>
  fc.record({ tenant: fc.nat({ max: tenants - 1 }).map((n) => `t${n}`), tokens });

describe("fair order", () => {
  test("of one tenant is first come, first served", () => {
    fc.assert(
      fc.property(fc.array(fc.oneof(arrival(1, fc.integer({ min: 1, max: 5_000 })), fc.constant("serve" as const))), (events) => {
        const serials = serve(events).map(({ place }) => place.serial);
        expect(serials).toEqual(serials.toSorted((a, b) => a - b));
      }),
    );
  });

  test("gives tenants that always wait equal tokens, to within one request of each", () => {
    fc.assert(
      fc.property(
        fc.integer({ min: 2, max: 5 }),
        fc.array(fc.integer({ min: 1, max: 1_000 }), { minLength: 40, maxLength: 80 }),
        (tenants, sizes) => {
          // Everybody's requests are there from the start, as many for each.
          const each = Math.floor(sizes.length / tenants);
          const events = sizes.slice(0, each * tenants).map((tokens, i) => ({ tenant: `t${i % tenants}`, tokens }));
          const totals = new Map<string, number>();
          const left = new Map<string, number>();
          for (const { tenant } of events) left.set(tenant, (left.get(tenant) ?? 0) + 1);
          const largest = Math.max(...sizes);
          for (const { tenant, tokens } of serve(events)) {
            totals.set(tenant, (totals.get(tenant) ?? 0) + tokens);
            left.set(tenant, (left.get(tenant) as number) - 1);
            if ([...left.values()].some((count) => count === 0)) break;
            const amounts = Array.from({ length: tenants }, (_, i) => totals.get(`t${i}`) ?? 0);
            expect(Math.max(...amounts) - Math.min(...amounts)).toBeLessThanOrEqual(2 * largest);
          }
        },
      ),
    );
  });

  test("lets a newcomer wait behind at most one request of each tenant that floods, whatever the flood", () => {
    fc.assert(
      fc.property(
        fc.integer({ min: 1, max: 4 }),
        fc.integer({ min: 1, max: 60 }),
        fc.integer({ min: 0, max: 30 }),
        (flooders, flood, served) => {
          const events: ({ tenant: string; tokens: number } | "serve")[] = [];
          for (let i = 0; i < flood; i++) for (let t = 0; t < flooders; t++) events.push({ tenant: `f${t}`, tokens: 100 });
          for (let i = 0; i < served; i++) events.push("serve");
          const before = Math.min(served, flood * flooders);
          events.push({ tenant: "new", tokens: 100 });
          const position = serve(events).findIndex(({ tenant }) => tenant === "new");
          expect(position - before).toBeLessThanOrEqual(flooders);
        },
      ),
    );
  });

  test("never changes a place, and never starves one: what comes later starts later in the end", () => {
    const order = new FairOrder();
    const waiting = order.place("patient", 10);
    let start = 0;
    for (let i = 0; i < 1_000; i++) {
      const place = order.place("busy", 50);
      order.admitted(place);
      start = place.start;
    }
    expect(start).toBeGreaterThan(waiting.start);
    expect(order.place("new", 1).start).toBe(start);
  });

  test("remembers so many tenants and no more, also where none ever comes back", () => {
    const order = new FairOrder();
    for (let i = 0; i < 5_000; i++) order.admitted(order.place(`t${i}`, 1));
    expect((order as unknown as { lastFinish: Map<string, number> }).lastFinish.size).toBe(1_024);
  });
});

test("a full queue is never one tenant's alone", () => {
  fc.assert(
    fc.property(fc.integer({ min: 5, max: 200 }), (maxWaiting) => {
      let own = 0;
      while (mayWait(own, own, maxWaiting)) own++;
      expect(own).toBeLessThan(maxWaiting);
      expect(own).toBeGreaterThanOrEqual(Math.floor(maxWaiting / 2));
      expect(mayWait(0, own, maxWaiting)).toBe(true);
    }),
  );
  expect(mayWait(0, 8, 8)).toBe(false);
});
