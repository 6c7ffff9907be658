// Who may say what to whom on the bus, and how a message there is made to be looked at.
import type { z } from "zod";
import { Control, Credit, Deltas, Dispatch, RowsRequest, TransferNotice, WorkerState } from "../../lib/contracts/messages.ts";
import { subjects as subjectsOf } from "../../lib/contracts/subjects.ts";
import type { NatsRole } from "../../lib/runtime/nats-permissions.ts";
import type { Random } from "../../lib/simulator/random.ts";
import type { Body } from "./bodies.ts";

export interface Channel {
  role: NatsRole;
  schema: z.ZodType;
  /** `body`: of a message that is well-formed. */
  subject(random: Random, body?: Body): string;
  /** Packed behind the JSON. */
  tail?: (random: Random, body: Body) => Uint32Array;
  /** Not sent: whoever has this right may do so much with it. */
  spares?: (body: Body) => boolean;
}

const mostRows = 300;
/** Further requests are held no longer than this. */
const mostLeaseMs = 2_000;
const rememberedTransfers = 8;

export function channels(service: string): Channel[] {
  const named = subjectsOf(service);
  /** Begun a moment ago. */
  const transfers: string[] = [];
  const known = (random: Random) => (transfers.length > 0 && random.chance(0.8) ? random.pick(transfers) : random.hex(16));
  return [
    { role: "gateway", schema: Dispatch, subject: () => named.dispatch("decode-0"), tail: tokens, spares: holdsLong },
    ...["decode-0", "prefill-0"].map(
      (worker): Channel => ({
        role: "gateway",
        schema: Control,
        subject: () => named.control(worker),
        spares: (body) => body.kind === "drain" || holdsLong(body),
      }),
    ),
    ...["decode-0", "prefill-0"].map(
      (worker): Channel => ({
        role: "decode",
        schema: RowsRequest,
        subject: (_, body) => {
          if (body !== undefined && worker === "prefill-0") {
            transfers.push(body.transferId as string);
            if (transfers.length > rememberedTransfers) transfers.shift();
          }
          return named.rows(worker);
        },
        tail: tokens,
      }),
    ),
    { role: "decode", schema: Credit, subject: (random, body) => named.credit("prefill-0", (body?.transferId as string) ?? known(random)) },
    { role: "prefill", schema: TransferNotice, subject: () => named.notices("decode-0") },
    // What a worker says of itself is believed: only what is no account at all is sent.
    { role: "decode", schema: WorkerState, subject: () => named.state("decode-0"), spares: () => true },
    // To nobody but who waits for them: intruder.ts answers those.
    { role: "decode", schema: Deltas, subject: (random) => named.deltas("gateway-0", random.hex(12)), tail: tokens },
  ];
}

function holdsLong({ leaseMs }: Body): boolean {
  return typeof leaseMs === "number" && leaseMs > mostLeaseMs;
}

/** Token ids: as many as the body speaks of, or not; within the vocabulary, or not. */
function tokens(random: Random, body: Body): Uint32Array {
  const deltas = Array.isArray(body.deltas) ? (body.deltas as Body[]) : [];
  const asked = Number(body.endRow ?? body.promptLength ?? deltas.reduce((sum, delta) => sum + Number(delta?.count), 0));
  const count = Number.isInteger(asked) && asked >= 0 && asked < mostRows && random.chance(0.8) ? asked : random.between(0, 80);
  return Uint32Array.from({ length: count }, () => (random.chance(0.98) ? random.between(0, 255) : random.word()));
}
