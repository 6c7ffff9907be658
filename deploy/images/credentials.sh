#!/bin/sh
# Fresh passwords for compose.yaml: .env for NATS, and a file for each role. In the folder beside it, or in the one that is named.
set -eu
cd "${1:-$(dirname "$0")}"
if [ -e .env ]; then
  echo "$PWD/.env is there already: delete it, and the folder credentials, for new passwords" >&2
  exit 1
fi
umask 077
mkdir -p credentials
for role in gateway prefill decode; do
  # It begins with a letter: to nats-server, one of digits alone is a number.
  password=p$(od -An -N24 -tx1 /dev/urandom | tr -d ' \n')
  printf 'PELAGIC_NATS_%s_PASSWORD=%s\n' "$(echo $role | tr a-z A-Z)" "$password" >> .env.new
  printf '{"user": "%s", "password": "%s"}\n' $role "$password" > credentials/$role.json
  # Whom the container runs as reads it; the folder keeps everybody else out.
  chmod 0644 credentials/$role.json
done
mv .env.new .env
