// Every field of every operation, so many values each, and what came of them.
import { Random } from "../../lib/simulator/random.ts";
import { type Body, candidateBodies, mutantOf } from "./bodies.ts";
import type { Client } from "./client.ts";
import { allowed, type Names } from "./draw.ts";
import { hostileString } from "./hostile-json.ts";
import { Judge } from "./judge.ts";
import { alternatives, type Field, fieldsOf, type Operation } from "./schema.ts";

export interface FieldsReport {
  requests: number;
  accepted: number;
  /** By operation, so many of each status. */
  statuses: Record<string, Record<string, number>>;
  fields: number;
  /** Values that the field had that had the fewest. */
  leastValues: number;
  /** The requests that took longest. */
  slowest: { seconds: number; operation: string; request: string }[];
  violations: Violation[];
  violationCount: number;
}

export interface Violation {
  operation: string;
  what: string;
  request: string;
}

const mostViolations = 50;
const keptSlowest = 8;

export interface FieldsOptions {
  client: Client;
  operations: readonly Operation[];
  names: Names;
  seed: number;
  /** Values of each field. */
  times: number;
  /** Requests at once. */
  parallel: number;
  onProgress(text: string): void;
}

export async function tryFields(options: FieldsOptions): Promise<FieldsReport> {
  const report: FieldsReport = {
    requests: 0,
    accepted: 0,
    statuses: {},
    fields: 0,
    leastValues: Number.POSITIVE_INFINITY,
    slowest: [],
    violations: [],
    violationCount: 0,
  };
  const judge = new Judge(options.operations);
  for (const operation of options.operations) {
    const name = `${operation.method} ${operation.path}`;
    const jobs = operation.body === null ? parameterJobs(operation, options) : await bodyJobs(operation, options, report);
    report.statuses[name] = {};
    const perField = new Map<string, number>();
    await inParallel(jobs, options.parallel, async (job) => {
      const begunMs = performance.now();
      const outcome = await options.client
        .send(operation.method, job.path, job.body)
        .then((reply) => ({ status: String(reply.status), fault: judge.verdict(operation, reply, job.known) }))
        .catch((error: unknown) => ({ status: "none", fault: String(error) }));
      const seconds = Math.round(performance.now() - begunMs) / 1000;
      report.slowest.push({ seconds, operation: name, request: job.what });
      report.slowest.sort((a, b) => b.seconds - a.seconds).splice(keptSlowest);
      report.requests++;
      if (outcome.status === "200") report.accepted++;
      count(report.statuses[name] as Record<string, number>, outcome.status);
      perField.set(job.field, (perField.get(job.field) ?? 0) + 1);
      if (outcome.fault !== null) addViolation(report, { operation: name, what: outcome.fault, request: job.what });
    });
    report.fields += perField.size;
    for (const values of perField.values()) report.leastValues = Math.min(report.leastValues, values);
    options.onProgress(`${name}: ${jobs.length} requests, ${JSON.stringify(report.statuses[name])}`);
  }
  return report;
}

interface Job {
  field: string;
  path: string;
  body?: string;
  known: ReadonlySet<string> | null;
  what: string;
}

async function bodyJobs(operation: Operation, options: FieldsOptions, report: FieldsReport): Promise<Job[]> {
  const { client, names, seed, times } = options;
  const schema = operation.body as NonNullable<Operation["body"]>;
  const name = `${operation.method} ${operation.path}`;
  const bases = await acceptedBodies(operation, client, names);
  if (bases.length === 0) {
    addViolation(report, { operation: name, what: "no body is accepted", request: JSON.stringify(candidateBodies(schema, names)[0]) });
    return [];
  }
  const fields = fieldsOf(schema);
  const known = new Set(alternatives(schema).flatMap((one) => Object.keys(one.properties ?? {})));
  return fields.flatMap((field: Field, at) =>
    Array.from({ length: times }, (_, turn): Job => {
      const random = new Random(seed * 1_000_003 + at * 1_009 + turn);
      // A field that is there in one of them may not be allowed in the others.
      const having = bases.filter((base) => Object.hasOwn(base, field.root));
      const { body, what } = mutantOf(random, turn, field, fields, schema, having[0] ?? random.pick(bases), names);
      return { field: field.name, path: operation.path, body: JSON.stringify(body), known, what };
    }),
  );
}

async function acceptedBodies(operation: Operation, client: Client, names: Names): Promise<Body[]> {
  const accepted: Body[] = [];
  for (const body of candidateBodies(operation.body as NonNullable<Operation["body"]>, names)) {
    const reply = await client.send(operation.method, operation.path, JSON.stringify(body));
    if (reply.status === 200) accepted.push(body);
  }
  return accepted;
}

/** Operations without a body: as they are, and with other values in their path and behind it. */
function parameterJobs({ path, parameters }: Operation, { seed, times, names }: FieldsOptions): Job[] {
  const inPath = parameters.filter((parameter) => parameter.in === "path");
  const fields = inPath.length > 0 ? inPath.map(({ name }) => name) : ["(query)"];
  return fields.flatMap((field, at) =>
    Array.from({ length: times }, (_, turn): Job => {
      const random = new Random(seed * 1_000_003 + at * 1_009 + turn);
      let whole = path;
      for (const { name, schema } of inPath) {
        const value = turn % 2 === 0 ? names.model : turn % 4 === 1 ? hostileString(random) : String(allowed(random, schema, name, names));
        whole = whole.replace(`{${name}}`, encodeURIComponent(wellFormed(value)) || "%00");
      }
      if (inPath.length === 0 && turn > 0) whole += `?${encodeURIComponent(wellFormed(hostileString(random)))}=1`;
      return { field, path: whole, known: null, what: `GET ${whole}`.slice(0, 300) };
    }),
  );
}

/** What a URL can carry. */
function wellFormed(text: string): string {
  return Buffer.from(text.slice(0, 2_000)).toString();
}

async function inParallel<T>(items: readonly T[], width: number, run: (item: T) => Promise<void>): Promise<void> {
  let next = 0;
  const lane = async () => {
    for (let item = items[next++]; item !== undefined; item = items[next++]) await run(item);
  };
  await Promise.all(Array.from({ length: width }, lane));
}

function count(counts: Record<string, number>, key: string): void {
  counts[key] = (counts[key] ?? 0) + 1;
}

function addViolation(report: FieldsReport, violation: Violation): void {
  report.violationCount++;
  if (report.violations.length < mostViolations) report.violations.push(violation);
}
