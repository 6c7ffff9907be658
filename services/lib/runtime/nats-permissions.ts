// Who may say what on the bus: each role gets the subjects that its part of the protocol needs and no others.
// Pure: from roles to a nats-server configuration file. The same rules serve a laptop (a user per process) and a cluster (a user per role).
import { subjects } from "../contracts/subjects.ts";

export const natsRoles = ["gateway", "prefill", "decode", "cli", "observer"] as const;
export type NatsRole = (typeof natsRoles)[number];

export interface NatsUser {
  role: NatsRole;
  /** Worker or gateway id. Given: the user may act as this process only; absent: as any process of the role. */
  id?: string;
  user: string;
  password: string;
}

export interface NatsServerOptions {
  service: string;
  host: string;
  /** -1: the server picks one and writes it to portsFileDir. */
  port: number;
  portsFileDir?: string;
  users: NatsUser[];
  /** HTTP monitoring on this loopback port; absent: off. */
  monitorPort?: number;
}

export interface NatsPermissions {
  publish: string[];
  subscribe: string[];
  /** May publish to the reply subjects of requests that it received. */
  answersRequests: boolean;
}

/** The only inboxes that a user may read: no process reads another's answers. */
export function inboxPrefixOf(user: string): string {
  return `_INBOX_${user}`;
}

/** A process's user name: unique over the services that share a server. */
export function natsUserName(service: string, processId: string): string {
  return `${service}_${processId}`;
}

export function natsPermissions(service: string, user: Pick<NatsUser, "role" | "id" | "user">): NatsPermissions {
  const all = wildcardSubjects(service);
  const own = wildcardSubjects(service, user.id);
  const inbox = `${inboxPrefixOf(user.user)}.>`;
  switch (user.role) {
    case "gateway":
      return {
        publish: [all.dispatch, all.control, all.files, all.stateRequest],
        subscribe: [own.deltas, all.state, inbox],
        answersRequests: false,
      };
    case "decode":
      return {
        // A draining decode worker sends rows to its peers as prefill does.
        publish: [all.deltas, all.rows, all.credit, all.frames, all.notices, own.state, own.loads, own.ranks, own.plans],
        subscribe: [
          own.dispatch,
          own.control,
          own.files,
          own.notices,
          own.frames,
          own.rows,
          own.credit,
          all.loads,
          all.ranks,
          all.plans,
          all.stateRequest,
          inbox,
        ],
        answersRequests: true,
      };
    case "prefill":
      return {
        publish: [all.frames, all.notices, own.state, own.loads],
        subscribe: [own.rows, own.control, own.files, own.credit, all.stateRequest, inbox],
        answersRequests: true,
      };
    case "cli":
      return {
        publish: [all.control, all.stateRequest],
        subscribe: [all.state, inbox],
        answersRequests: false,
      };
    case "observer":
      // Sees all and says nothing: ./pelagic chaos, on a server of its own. No other server has such a user.
      return { publish: [], subscribe: [">"], answersRequests: false };
  }
}

/** The text of the server's configuration file; it holds passwords, so the file is for its owner only. */
export function natsServerConfig(options: NatsServerOptions): string {
  const config = {
    server_name: `pelagic-${options.service}`,
    host: options.host,
    port: options.port,
    ...(options.portsFileDir === undefined ? {} : { ports_file_dir: options.portsFileDir }),
    ...(options.monitorPort === undefined ? {} : { http: `127.0.0.1:${options.monitorPort}` }),
    // The server's default; a KV frame takes 147,520 bytes and a prompt of 160k tokens 640 KiB.
    max_payload: 1024 * 1024,
    // Bytes queued for one reader before the server cuts it off. Credits keep receivers well under it.
    max_pending: 64 * 1024 * 1024,
    write_deadline: "10s",
    ping_interval: "10s",
    ping_max: 3,
    authorization: {
      // Seconds; generous, because everything starts at once on a small machine.
      timeout: 10,
      users: options.users.map((user) => ({
        user: user.user,
        password: user.password,
        permissions: serverPermissions(natsPermissions(options.service, user)),
      })),
    },
  };
  // nats-server's configuration language takes JSON.
  return `${JSON.stringify(config, null, 2)}\n`;
}

function serverPermissions(permissions: NatsPermissions): object {
  return {
    // To the server an empty list of what is allowed means everything.
    publish: permissions.publish.length > 0 ? { allow: permissions.publish } : { deny: [">"] },
    subscribe: { allow: permissions.subscribe },
    ...(permissions.answersRequests ? { allow_responses: { max: 1, expires: "2m" } } : {}),
  };
}

/** Each subject with `*` for what is left open: every id, or for one process the parts after its own id. */
function wildcardSubjects(service: string, id?: string) {
  // subjects() refuses `*` in an id, rightly; so an id that is a valid token stands in and is replaced.
  const any = "ANY-ID";
  const named = subjects(service);
  const of = (subject: string) =>
    subject
      .split(".")
      .map((token) => (token === any ? "*" : token))
      .join(".");
  const who = id ?? any;
  return {
    dispatch: of(named.dispatch(who)),
    loads: of(named.loads(who)),
    ranks: of(named.ranks(who)),
    plans: of(named.plans(who)),
    control: of(named.control(who)),
    rows: of(named.rows(who)),
    files: of(named.files(who)),
    notices: of(named.notices(who)),
    state: of(named.state(who)),
    stateRequest: named.stateRequest,
    deltas: of(named.deltas(who, any)),
    frames: of(named.frames(who, any)),
    credit: of(named.credit(who, any)),
  };
}
