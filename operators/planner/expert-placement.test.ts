// What an ExpertPlacement tells of groups that ranks were in, as they remember it.
import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { ExpertPlacementStatus, type PlacementConditionType } from "../api/expert-placement.ts";
import type { RankStatus } from "../../services/lib/contracts/rank-status.ts";
import { placementStatusOf } from "./expert-placement.ts";
import type { RankReport } from "./observed.ts";

const nowMs = Date.parse("2026-01-01T00:10:00Z");
const group = "ms-decode-1a2b";
const experts = { ranks: 4, redundancy: 8, policy: "balanced" as const, rebalanceSeconds: 60 };

type Met = [round: number, members: number[], loss?: string | null, stopped?: number[]];

/** Rank `rank` remembers these groups, the last of which stands. */
function report(rank: number, met: Met[], more: Partial<RankStatus> = {}, of = group): RankReport {
  const history = met.map(([round, members, loss = null, stopped = []]) => ({ round, members, loss, stopped, secondsAgo: 600 - round }));
  const members = met.at(-1)?.[1] ?? [];
  const plan = { version: 1, digest: "0123456789abcdef", whole: true };
  const loaded = { experts: 0, bytes: 0 };
  const status = {
    group: `test/${of}`,
    rank,
    rankCount: experts.ranks,
    members,
    reason: null,
    plan,
    indispensable: [],
    balancedness: null,
    loaded,
  };
  return { pod: `${of}-${rank}`, status: { ...status, history, ...more }, atMs: nowMs };
}

function told(reports: RankReport[], earlier?: ExpertPlacementStatus, wanted = group) {
  const { status, events } = placementStatusOf({ experts, namespace: "test", group: wanted, reports, earlier, generation: 1, nowMs });
  // As the API server keeps it.
  return { status: ExpertPlacementStatus.parse(JSON.parse(JSON.stringify(status))), events };
}

function condition(status: ExpertPlacementStatus, type: PlacementConditionType) {
  const { status: holds, reason, message } = status.conditions?.find((each) => each.type === type) ?? {};
  return { holds, reason, message };
}

const messages = ({ changes }: ExpertPlacementStatus) => changes?.map(({ message }) => message);
const all = [0, 1, 2, 3];
const whole = told(all.map((rank) => report(rank, [[1, all]]))).status;

describe("the status of an ExpertPlacement", () => {
  it("waits for pods that say nothing, and for ranks that have not met", () => {
    const silent = told([]).status;
    expect(condition(silent, "Serving")).toMatchObject({ holds: "Unknown", reason: "NotHeard" });
    expect(condition(silent, "Complete")).toMatchObject({ holds: "False", reason: "Starting" });
    expect(silent).toMatchObject({ ranks: { present: "0/4", lost: [] }, losses: 0, changes: [] });
    const waiting = told([report(0, [], { reason: "waits for ranks 1, 2, 3" })]).status;
    expect(condition(waiting, "Serving")).toMatchObject({ holds: "False", reason: "NoGroup" });
    expect(condition(waiting, "Serving").message).toContain("rank 0 waits for ranks 1, 2, 3");
  });

  it("is whole when all have met, and then has nothing new to say", () => {
    expect(whole).toMatchObject({ ranks: { present: "4/4", members: all, lost: [], indispensable: [] }, losses: 0 });
    expect(messages(whole)).toEqual([`${group}: all 4 ranks have met`]);
    expect(whole.changes?.[0]?.time).toBe("2026-01-01T00:00:01Z");
    for (const type of ["Serving", "Complete", "Redundant"] as const) expect(condition(whole, type).holds).toBe("True");
    const again = told(
      all.map((rank) => report(rank, [[1, all]])),
      whole,
    );
    expect(again).toEqual({ status: whole, events: [] });
  });

  it("tells a loss while it lasts", () => {
    const left = [0, 1, 3];
    const { status, events } = told(
      left.map((rank) =>
        report(
          rank,
          [
            [1, all],
            [2, left, "rank 2 closed its connection"],
          ],
          { indispensable: [1] },
        ),
      ),
      whole,
    );
    expect(status).toMatchObject({ ranks: { present: "3/4", members: left, lost: [2], indispensable: [1] }, losses: 1 });
    const said = `rank 2 lost: pod ${group}-2 (rank 2 closed its connection); ranks 0, 1 and 3 hold every expert and go on`;
    expect(messages(status)?.[0]).toBe(said);
    expect(events).toEqual([{ type: "Warning", reason: "RankLost", message: said }]);
    expect(condition(status, "Serving").holds).toBe("True");
    expect(condition(status, "Complete")).toMatchObject({ holds: "False", reason: "RankLost" });
    expect(condition(status, "Redundant")).toMatchObject({ holds: "False", reason: "SoleCopies" });
    // Nobody answers for a moment: what was known is not forgotten.
    expect(told([], status).status).toMatchObject({ ranks: { present: "0/4", lost: all }, losses: 1 });
  });

  it("tells of a rank that was stopped, which is no loss", () => {
    const left = [0, 1, 3];
    const met: Met[] = [
      [1, all],
      [2, left, null, [2]],
    ];
    const { status, events } = told(
      left.map((rank) => report(rank, met)),
      whole,
    );
    const said = `rank 2 stopped: pod ${group}-2; ranks 0, 1 and 3 hold every expert and go on`;
    expect(status).toMatchObject({ ranks: { present: "3/4", lost: [2] }, losses: 0 });
    expect(status.changes?.[0]).toMatchObject({ kind: "Stopped", message: said });
    expect(events).toEqual([{ type: "Normal", reason: "RankStopped", message: said }]);
    expect(condition(status, "Complete")).toMatchObject({ holds: "False", reason: "RankStopped" });
    // Who was not heard to stop is lost, whoever stopped beside it.
    const both: Met[] = [
      [1, all],
      [2, [0, 1], "rank 3 is silent", [2]],
    ];
    const two = told([report(0, both), report(1, both)], whole);
    expect(messages(two.status)?.[0]).toBe(
      `rank 3 lost: pod ${group}-3 (rank 3 is silent), rank 2 stopped; ranks 0 and 1 hold every expert and go on`,
    );
    expect(two.status.losses).toBe(1);
    expect(two.events.map(({ reason }) => reason)).toEqual(["RankLost"]);
  });

  it("takes a look between two groups for no loss of those that are about to meet", () => {
    const left = [0, 1, 3];
    const met: Met[] = [[1, all]];
    const between = left.map((rank) => report(rank, met, { members: [], reason: "waits for rank 2 (rank 2 closed its connection)" }));
    const during = told(between, whole);
    expect(during.events).toEqual([]);
    expect(during.status).toMatchObject({ ranks: { present: "0/4", members: [], lost: [2] }, losses: 0 });
    expect(condition(during.status, "Serving")).toMatchObject({ holds: "False", reason: "NoGroup" });
    const again: Met = [2, left, "rank 2 closed its connection"];
    const after = told(
      left.map((rank) => report(rank, [...met, again])),
      during.status,
    );
    expect(messages(after.status)?.[0]).toMatch(/^rank 2 lost: pod .*; ranks 0, 1 and 3 hold every expert and go on$/);
    expect(after.status.losses).toBe(1);
    const allMeet = told(
      all.map((rank) => report(rank, met, { members: [] })),
      whole,
    ).status;
    expect(condition(allMeet, "Complete").reason).toBe("Meeting");
  });

  it("tells afterwards what nobody looked at while it was, from whoever remembers it", () => {
    const met: Met[] = [
      [1, all],
      [2, [0, 1, 3], "rank 2 is silent"],
      [5, all],
    ];
    const { status, events } = told([report(2, [[5, all]]), report(0, met), report(1, met)], whole);
    expect(status).toMatchObject({ ranks: { present: "4/4", lost: [] }, losses: 1 });
    expect(messages(status)?.slice(0, 2)).toEqual([
      "rank 2 back; all 4 share the experts",
      `rank 2 lost: pod ${group}-2 (rank 2 is silent); ranks 0, 1 and 3 hold every expert and go on`,
    ]);
    expect(events.map(({ reason }) => reason)).toEqual(["RankLost", "RanksMet"]);
  });

  it("tells a group that could not go on without who was lost", () => {
    const { status } = told(
      [
        report(0, [
          [1, all],
          [3, all, "rank 1 closed its connection"],
        ]),
      ],
      whole,
    );
    expect(messages(status)?.[0]).toBe("the group ended (rank 1 closed its connection) and met again; all 4 share the experts");
    expect(status.losses).toBe(1);
  });

  it("shows the group that computes while the next one starts, and then that one, without a loss", () => {
    const next = "ms-decode-3c4d";
    const old = all.map((rank) => report(rank, [[7, all]]));
    const earlier = told(old, whole).status;
    const starting = told([...old, report(0, [], { reason: "waits for rank 1" }, next)], earlier, next).status;
    expect(starting).toMatchObject({ ranks: { present: "4/4" }, changes: [{ group }, { group }] });
    const both = told([...old, ...all.map((rank) => report(rank, [[1, all]], {}, next))], starting, next).status;
    expect(both).toMatchObject({ ranks: { present: "4/4", lost: [] }, losses: earlier.losses, changes: [{ group: next }, {}, {}] });
    const leaving = told(
      [report(3, [[8, [3], "rank 0 closed its connection"]]), ...all.map((rank) => report(rank, [[1, all]], {}, next))],
      both,
      next,
    );
    expect(leaving).toEqual({ status: both, events: [] });
  });

  it("tells another plan once all its layers are in force, and what was loaded for it", () => {
    const at = (version: number, isWhole: boolean, experts: number) =>
      all.map((rank) =>
        report(rank, [[1, all]], {
          plan: { version, digest: `${version}`.repeat(16), whole: isWhole },
          loaded: { experts, bytes: experts * 2 ** 20 },
        }),
      );
    expect(told(at(2, false, 1), whole)).toEqual({ status: whole, events: [] });
    const second = told(at(2, true, 3), whole);
    expect(second.status).toMatchObject({ plan: { version: 2 }, moved: { experts: 12, bytes: 12 * 2 ** 20 }, losses: 0 });
    expect(second.events).toEqual([
      { type: "Normal", reason: "ExpertsPlaced", message: "plan 2 in force: 12 copies of experts loaded, 12.0 MiB" },
    ]);
    expect(told(at(2, true, 4), second.status)).toEqual({ status: second.status, events: [] });
    expect(messages(told(at(3, true, 5), second.status).status)?.[0]).toContain("plan 3 in force: 8 copies");
    // Pods that began anew have counted nothing yet.
    expect(messages(told(at(3, true, 0), second.status).status)?.[0]).toBe("plan 3 in force");
    expect(condition(second.status, "Complete").holds).toBe("True");
  });

  it("keeps the balance of when there was load, and writes no small change of it", () => {
    const at = (balancedness: number | null, earlier?: ExpertPlacementStatus) =>
      told([report(3, [[1, all]]), report(0, [[1, all]], { balancedness })], earlier).status;
    const first = at(0.712);
    expect([whole.balancedness, first.balancedness]).toEqual([undefined, 0.71]);
    expect([at(0.74, first), at(null, first), at(0.8, first)].map(({ balancedness }) => balancedness)).toEqual([0.71, 0.71, 0.8]);
  });

  it("believes ranks that all began anew, and nobody of another namespace", () => {
    const late = told(all.map((rank) => report(rank, [[9, all]]))).status;
    const anew = told([report(0, [[1, all]])], late).status;
    expect(messages(anew)?.[0]).toBe(`${group}: all 4 ranks have met`);
    const strangers = all.map((rank) => report(rank, [[9, all]], { group: `other/${group}` }));
    expect(told(strangers).status.ranks?.present).toBe("0/4");
  });

  it("tells every meeting once, however looks fall between them, and forgets only the oldest", () => {
    const membership = fc.subarray(all, { minLength: 1 });
    fc.assert(
      fc.property(fc.array(membership, { minLength: 1, maxLength: 12 }), fc.array(fc.nat(12), { maxLength: 12 }), (groups, looks) => {
        const met = groups.map((members, i): Met => [i + 1, members, i === 0 ? undefined : "lost"]);
        const at = (count: number) => all.map((rank) => report(rank, met.slice(0, count).slice(-4)));
        let status: ExpertPlacementStatus | undefined;
        const rounds: number[] = [];
        const upTo = [...looks.map((look) => Math.min(look, met.length)).sort((a, b) => a - b), met.length];
        for (const count of upTo.filter((look) => look > 0)) {
          const before = status?.changes?.[0]?.round ?? 0;
          status = told(at(count), status).status;
          const fresh = (status.changes ?? []).map(({ round }) => round).filter((round) => round > before);
          rounds.push(...fresh.toReversed());
          expect(status.ranks?.members).toEqual(groups[count - 1]);
          expect(status.changes?.length).toBeLessThanOrEqual(10);
        }
        expect(rounds).toEqual([...new Set(rounds)].sort((a, b) => a - b));
        expect(rounds.at(-1)).toBe(met.length);
      }),
    );
  });
});
