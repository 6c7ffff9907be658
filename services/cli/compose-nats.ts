// The NATS configuration of deploy/images/compose.yaml: a user for each role, whose password is an environment variable of the server.
import { natsServerConfig, type NatsRole } from "../lib/runtime/nats-permissions.ts";

const roles: NatsRole[] = ["gateway", "prefill", "decode"];

export function composeNatsConfig(): string {
  const users = roles.map((role) => ({ role, user: role, password: `$PELAGIC_NATS_${role.toUpperCase()}_PASSWORD` }));
  const config = natsServerConfig({ service: "default", host: "0.0.0.0", port: 4222, users });
  // To the server a quoted variable is a text like any other.
  return config.replace(/"(\$PELAGIC_NATS_[A-Z]+_PASSWORD)"/g, "$1");
}
