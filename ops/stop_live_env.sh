#!/usr/bin/env bash
# Stop what start_live_env.sh has started, in reverse: workers, feeds, nodes, NATS.

set -uo pipefail
# shellcheck source=ops/live_env.sh
source "$(dirname "${BASH_SOURCE[0]}")/live_env.sh"

usage() {
  cat <<'END'
ops/stop_live_env.sh [--env FILE] [--status] [PART ...]

Stops the parts that are named, as in feed-ctp-a; without any, all that ops/start_live_env.sh has started with the same file, the last first: each
gets SIGTERM, and SIGKILL if it has not ended after AEGIS_LIVE_STOP_SECONDS (40).
--status says what runs, and stops nothing.

Exit code: 0 nothing runs any more, 1 something had to be killed, 2 wrong use.
END
}

settings "$@"
if [[ $mode == status ]]; then
  print_status
  exit $?
fi
only_one

parts=()
while read -r name _; do parts+=("$name"); done <"$order"
if ((${#names[@]})); then
  for name in "${names[@]}"; do
    grep -q "^$name " "$order" || fail "there is no part $name" "it is one of: ${parts[*]-}" 2
  done
  # They stay in the list: the next start begins them again.
  stop_parts "${names[@]}"
  exit $?
fi
if ((${#parts[@]} == 0)); then
  say "nothing was started"
  exit 0
fi
code=0
stop_parts "${parts[@]}" || code=1
: >"$order"
exit $code
