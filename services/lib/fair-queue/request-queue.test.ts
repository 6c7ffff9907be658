import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { type PriorityClass, priorityClasses } from "../contracts/messages.ts";
import { mayWait } from "./fair-order.ts";
import { RequestQueue } from "./request-queue.ts";

interface Request {
  tenant: string;
  user: string;
  priority: PriorityClass;
  tokens: number;
  /** After its arrival. */
  dueMs: number;
}
interface Served extends Request {
  arrivedMs: number;
  servedMs: number;
  /** Of its tenant, when it came. */
  ownAhead: number;
  /** Who still waited when its turn came. */
  left: Waiting[];
}
type Waiting = Request & { arrivedMs: number; ownAhead: number };

const ageMs = 1_000;
const capacity = 24;

/** One slow model that serves a request at a time, each as long as its tokens take; who finds the queue full is refused. */
function serve(arrivals: readonly (Request & { afterMs: number })[], msPerToken: number): Served[] {
  const queue = new RequestQueue<Waiting>(ageMs);
  const served: Served[] = [];
  let now = 0;
  let freeMs = 0;
  const serveUntil = (untilMs: number) => {
    while (queue.size > 0 && freeMs <= untilMs) {
      now = Math.max(now, freeMs);
      queue.age(now);
      const [next] = queue;
      if (next === undefined) return;
      queue.serve(next);
      queue.remove(next);
      served.push({ ...next, servedMs: now, left: [...queue] });
      freeMs = now + next.tokens * msPerToken;
    }
  };
  for (const { afterMs, ...request } of arrivals) {
    const arrivedMs = now + afterMs;
    serveUntil(arrivedMs);
    now = Math.max(now, arrivedMs);
    const waiting = [...queue];
    if (!mayWait(waiting.filter(({ tenant }) => tenant === request.tenant).length, waiting.length, capacity)) continue;
    const entry = { ...request, arrivedMs: now, ownAhead: waiting.filter(({ tenant }) => tenant === request.tenant).length };
    queue.add(entry, { ...request, dueAtMs: now + request.dueMs }, request.tokens, now);
    freeMs = Math.max(freeMs, now);
  }
  serveUntil(Number.POSITIVE_INFINITY);
  expect(queue.size).toBe(0);
  return served;
}

const forever = Number.POSITIVE_INFINITY;
const arrivals = (of: { tenants: number; priorities?: readonly PriorityClass[]; due?: fc.Arbitrary<number>; users?: number }) =>
  fc.array(
    fc.record({
      tenant: fc.nat({ max: of.tenants - 1 }).map((n) => `t${n}`),
      user: fc.nat({ max: (of.users ?? 1) - 1 }).map((n) => `u${n}`),
      priority: fc.constantFrom(...(of.priorities ?? priorityClasses)),
      tokens: fc.integer({ min: 1, max: 50 }),
      dueMs: of.due ?? fc.constant(forever),
      afterMs: fc.oneof(fc.constant(0), fc.nat({ max: 100 })),
    }),
    { minLength: 1, maxLength: 120 },
  );
const speed = fc.constantFrom(0.1, 1, 5);
const hurry = fc.oneof(fc.constant(forever), fc.nat({ max: 2_000 }));

describe("the order of requests", () => {
  test("nobody is served before one of a better class, unless it has waited long", () => {
    fc.assert(
      fc.property(arrivals({ tenants: 4, due: hurry }), speed, (all, msPerToken) => {
        for (const one of serve(all, msPerToken)) {
          if (one.servedMs - one.arrivedMs >= ageMs) continue;
          const rank = priorityClasses.indexOf(one.priority);
          for (const other of one.left) expect(priorityClasses.indexOf(other.priority)).toBeGreaterThanOrEqual(rank);
        }
      }),
    );
  });

  /** What a request may wait: to move up three times behind those of its tenant, and for a full queue. Moves are looked for 32 times in an age. */
  const bound = (ownAhead: number, msPerToken: number) => (3 + ownAhead) * ageMs * (33 / 32) + (capacity + 1) * 50 * msPerToken;

  test("nobody waits for ever: three times the age, and what a full queue takes", () => {
    const longest = 50;
    fc.assert(
      fc.property(fc.integer({ min: 0, max: 2 }), fc.constantFrom(1, 5), fc.nat({ max: 49 }), hurry, (rank, msPerToken, jitter, dueMs) => {
        // Always another tenant, always in a hurry, always of the best class, and more than the model can serve.
        const flood = Array.from({ length: 900 }, (_, n) => ({
          tenant: `t${n}`,
          user: "",
          priority: "high" as const,
          tokens: longest - ((n * jitter) % longest),
          dueMs: 100,
          afterMs: 10,
        }));
        const patient = { tenant: "patient", user: "", priority: priorityClasses[rank] as PriorityClass, tokens: 10, dueMs, afterMs: 0 };
        const served = serve([...flood.slice(0, 5), patient, ...flood.slice(5)], msPerToken);
        const own = served.find(({ tenant }) => tenant === "patient");
        expect(own).toBeDefined();
        for (const { servedMs, arrivedMs } of served) expect(servedMs - arrivedMs).toBeLessThanOrEqual(bound(0, msPerToken));
      }),
      { numRuns: 30 },
    );
  });

  test("whatever comes, no wait is longer than that", () => {
    fc.assert(
      fc.property(arrivals({ tenants: 30, users: 3, due: hurry }), speed, (all, msPerToken) => {
        for (const { servedMs, arrivedMs, ownAhead } of serve(all, msPerToken)) {
          expect(servedMs - arrivedMs).toBeLessThanOrEqual(bound(ownAhead, msPerToken));
        }
      }),
    );
  });

  test("of one tenant, whose first token is due sooner comes first, as long as it can be met", () => {
    fc.assert(
      fc.property(arrivals({ tenants: 2, priorities: ["normal"], due: hurry }), speed, (all, msPerToken) => {
        for (const one of serve(all, msPerToken)) {
          const due = one.arrivedMs + one.dueMs;
          const late = (other: Waiting) => other.arrivedMs + other.dueMs < one.servedMs;
          const aged = (other: Waiting) => one.servedMs - other.arrivedMs >= ageMs;
          if (aged(one)) continue;
          for (const other of one.left) {
            if (other.tenant === one.tenant && !late(other) && !aged(other))
              expect(other.arrivedMs + other.dueMs).toBeGreaterThanOrEqual(due);
          }
        }
      }),
    );
  });

  test("of one tenant and user without deadlines is first come, first served", () => {
    fc.assert(
      fc.property(arrivals({ tenants: 1, priorities: ["low"] }), speed, (all, msPerToken) => {
        const times = serve(all, msPerToken).map(({ arrivedMs }) => arrivedMs);
        expect(times).toEqual(times.toSorted((left, right) => left - right));
      }),
    );
  });

  test("tenants that always wait get equal tokens, and a tenant's users too, whatever their deadlines", () => {
    const sizes = fc.array(fc.integer({ min: 1, max: 50 }), { minLength: 12, maxLength: 12 });
    fc.assert(
      fc.property(fc.constantFrom("tenant", "user"), sizes, fc.array(hurry, { minLength: 12, maxLength: 12 }), (whose, tokens, dues) => {
        const all = tokens.map((count, n) => ({
          tenant: whose === "tenant" ? `t${n % 3}` : "t",
          user: whose === "user" ? `u${n % 3}` : "",
          priority: "normal" as const,
          tokens: count,
          // Deadlines count before the shares of one tenant's users.
          dueMs: whose === "tenant" ? (dues[n] as number) : forever,
          afterMs: 0,
        }));
        const queue = new RequestQueue<Request>();
        for (const one of all) queue.add(one, { ...one, dueAtMs: one.dueMs }, one.tokens, 0);
        const totals = new Map([0, 1, 2].map((n) => [whose === "tenant" ? `t${n}` : `u${n}`, 0]));
        const left = new Map([...totals.keys()].map((name) => [name, 4]));
        while (queue.size > 0) {
          const [next] = queue as Iterable<Request> as [Request];
          queue.serve(next);
          queue.remove(next);
          totals.set(next[whose], (totals.get(next[whose]) as number) + next.tokens);
          left.set(next[whose], (left.get(next[whose]) as number) - 1);
          if ([...left.values()].includes(0)) break;
          expect(Math.max(...totals.values()) - Math.min(...totals.values())).toBeLessThanOrEqual(2 * 50);
        }
      }),
    );
  });

  test("a tenant does not age its way past another one's share by sending too much", () => {
    fc.assert(
      fc.property(fc.integer({ min: 1, max: 50 }), fc.constantFrom(1, 5), (tokens, msPerToken) => {
        // A flood that always fills its share of the queue, and one request now and then of somebody else.
        const all = Array.from({ length: 400 }, (_, n) => ({
          tenant: n % 40 === 39 ? "light" : "flood",
          user: "",
          priority: "normal" as const,
          tokens,
          dueMs: forever,
          afterMs: (tokens * msPerToken) / 2,
        }));
        const served = serve(all, msPerToken);
        const light = served.filter(({ tenant }) => tenant === "light");
        expect(light.length).toBe(10);
        // Behind what is being served, one of the flood that came first, and one for each class that moved up: in all ages that pass meanwhile.
        for (const { servedMs, arrivedMs } of light) expect(servedMs - arrivedMs).toBeLessThanOrEqual((3 + 3) * tokens * msPerToken);
      }),
    );
  });

  test("one that was served and waits again keeps its place", () => {
    const queue = new RequestQueue<string>(ageMs);
    const standing = (tenant: string, dueAtMs = forever) => ({ tenant, user: "", priority: "normal" as const, dueAtMs });
    queue.add("first", standing("a"), 100, 0);
    queue.serve("first");
    queue.add("second", standing("a"), 100, 0);
    queue.suspend("first", 10);
    queue.add("urgent", standing("a", 50), 100, 10);
    expect([...queue]).toEqual(["first", "urgent", "second"]);
    queue.serve("first");
    queue.age(10 * ageMs);
    expect([...queue][0]).toBe("second");
  });
});
