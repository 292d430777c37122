#!/usr/bin/env bash
set -Eeo pipefail
if [ ! -s "$PGDATA/PG_VERSION" ]; then
	initdb --auth=trust --no-sync >/dev/null
fi
exec "$@"
