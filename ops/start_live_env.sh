#!/usr/bin/env bash
# Bring up a market: NATS, nodes, feeds, workers, in this order, each ready before the next.

set -uo pipefail
# shellcheck source=ops/live_env.sh
source "$(dirname "${BASH_SOURCE[0]}")/live_env.sh"

usage() {
  cat <<'END'
ops/start_live_env.sh [--env FILE] [--keep] [--status]

Starts what ops/.env (or FILE) names: a NATS server unless AEGIS_NATS_URL names one, a
supervisor, further nodes, the feeds of the market (the first publishes, the others stand by)
and workers. It waits until each is ready, and until the feeds are live and cover enough.
What runs already is left alone. If a step fails, what this start has begun is stopped again;
with --keep it stays. --status says what runs, and starts nothing.

Exit code: 0 all runs, 1 a step has failed, 2 wrong use.
END
}

keep=no
settings "$@"
((${#names[@]} == 0)) || fail "there is no part to name: ${names[*]}" "see --help" 2
if [[ $mode == status ]]; then
  print_status
  exit $?
fi
only_one

market=${AEGIS_LIVE_MARKET:-}
market_name=${AEGIS_LIVE_MARKET_NAME:-market}
read -ra feeds <<<"${AEGIS_LIVE_FEEDS:-}"
read -ra nodes <<<"${AEGIS_LIVE_NODES:-}"
read -ra workers <<<"${AEGIS_LIVE_WORKERS:-}"
coverage=${AEGIS_LIVE_COVERAGE:-0.995}
ready_seconds=${AEGIS_LIVE_READY_SECONDS:-60}
live_seconds=${AEGIS_LIVE_FEED_SECONDS:-180}
port=${AEGIS_LIVE_ADMIN_PORT:-8080}
nats_port=${AEGIS_LIVE_NATS_PORT:-4222}
monitor=${AEGIS_LIVE_NATS_MONITOR:-127.0.0.1:8222}

[[ -n $market ]] || fail "AEGIS_LIVE_MARKET is not set" "name the market's file in ops/.env" 2
[[ -r $market ]] || fail "AEGIS_LIVE_MARKET: $market cannot be read" "give its whole path" 2
((${#feeds[@]})) || fail "AEGIS_LIVE_FEEDS is not set" "name feeds of $market, the primary first" 2

aegis=${AEGIS_LIVE_AEGIS:-}
if [[ -z $aegis ]]; then
  aegis=$(command -v aegis) || aegis=$here/../.venv/bin/aegis
fi
[[ -x $aegis ]] || fail "there is no command aegis" "install it, or name it in AEGIS_LIVE_AEGIS" 2

begun_here=() # what this start has begun, in order
already=0

# On any failure: what stays is told, and by default nothing does.
give_up() {
  if ((${#begun_here[@]})); then
    if [[ $keep == yes ]]; then
      say "left running: ${begun_here[*]}; ops/stop_live_env.sh stops them" >&2
    else
      say "stopping what was started: ${begun_here[*]}" >&2
      stop_parts "${begun_here[@]}" >&2
    fi
  fi
  fail "$@"
}
trap 'give_up "interrupted"' INT TERM

# begin NAME PORT COMMAND ...: start it, unless it runs.
begin() {
  local name=$1 part_port=$2 pid
  shift 2
  grep -qx "$name $part_port" "$order" || {
    sed -i.bak "/^$name /d" "$order" && rm -f "$order.bak"
    printf '%s %s\n' "$name" "$part_port" >>"$order"
  }
  if pid=$(pid_of "$name"); then
    say "$name: runs already (pid $pid)"
    already=$((already + 1))
    return 1
  fi
  "$@" >>"$dir/log/$name.log" 2>&1 </dev/null 9>&- &
  pid=$!
  disown
  printf '%s\n%s\n' "$pid" "$(begun "$pid")" >"$dir/run/$name.pid"
  begun_here+=("$name")
}

# answers HOST:PORT PATH: whether a GET is answered with 200.
answers() {
  local line
  { exec 3<>"/dev/tcp/${1%:*}/${1##*:}"; } 2>/dev/null || return 1
  printf 'GET %s HTTP/1.0\r\nHost: %s\r\n\r\n' "$2" "$1" >&3
  IFS= read -r -t 2 line <&3
  exec 3<&-
  [[ $line == *" 200 "* ]]
}

# wait_ready NAME HOST:PORT PATH TODO
wait_ready() {
  local name=$1 until=$((SECONDS + ready_seconds))
  until answers "$2" "$3"; do
    if ! pid_of "$name" >/dev/null && [[ -e $dir/run/$name.pid ]]; then
      say "the end of $dir/log/$name.log:" >&2
      tail -n 5 "$dir/log/$name.log" >&2
      give_up "$name has ended" "$4"
    fi
    ((SECONDS < until)) || give_up "$name is not ready after $ready_seconds s: http://$2$3" "$4"
    sleep 0.2
  done
  say "$name: ready"
}

# wait_live NAME TODO: until a feed is connected and covers enough; without a name the one
# that publishes.
wait_live() {
  local told code
  told=$("$aegis" feed health --market "$market_name" ${1:+--feed "$1"} --coverage "$coverage" \
    --wait "$live_seconds" --limit 5 2>&1)
  code=$?
  case $code in
  0) say "${1:-the market}: live, at least ${coverage} of each exchange is covered" ;;
  1) printf '%s: live, but %s\n' "${1:-the market}" "$told" ;;
  *)
    printf '%s\n' "$told" >&2
    give_up "${1:-the market} is not live after $live_seconds s" "$2"
    ;;
  esac
}

# run_words WORD: how a node of AEGIS_LIVE_NODES or AEGIS_LIVE_WORKERS is run.
part_name() {
  local name=${1##*/}
  name=${name%.toml}
  printf '%s' "${name//[^A-Za-z0-9_-]/-}"
}

begin_node() {
  local name=$1 what=$2
  port=$((port + 1))
  if [[ $what == *.toml ]]; then
    begin "$name" "$port" "$aegis" run --config "$what" --admin-port "$port"
  else
    begin "$name" "$port" "$aegis" run "$what" --admin-port "$port"
  fi
  wait_ready "$name" "127.0.0.1:$port" /readyz \
    "read its log; curl http://127.0.0.1:$port/readyz says what it waits for"
}

# -- before anything is started -------------------------------------------------------------

export AEGIS_LOG_FORMAT=${AEGIS_LOG_FORMAT:-json}
told=$("$aegis" feed validate "$market" "${feeds[@]/#/--feed=}" 2>&1) || {
  printf '%s\n' "$told" >&2
  fail "the feeds of $market cannot be started" "mend what the lines above name; nothing was started"
}

# -- NATS -----------------------------------------------------------------------------------

begin_nats() {
  local server=${AEGIS_NATS_SERVER:-} config=${AEGIS_LIVE_NATS_CONFIG:-}
  if [[ -z $server ]]; then
    server=$(command -v nats-server) || server=$(dirname "$(readlink -f "$aegis")")/nats-server
  fi
  [[ -x $server ]] || give_up "there is no nats-server" "install it, or name it in AEGIS_NATS_SERVER"
  if [[ -z $config ]]; then
    config=$dir/nats.conf
    {
      printf 'server_name: aegis-live\nlisten: "127.0.0.1:%s"\nhttp: "%s"\n' "$nats_port" "$monitor"
      # By its name: the server reads the password from its environment.
      # shellcheck disable=SC2016
      if [[ -n ${AEGIS_USER:-} ]]; then
        printf 'authorization { user: "%s", password: $AEGIS_LIVE_NATS_PASSWORD }\n' "$AEGIS_USER"
      fi
      cat "$here/nats/common.conf"
    } >"$config"
  fi
  local password=${AEGIS_PASSWORD:-}
  if [[ -z $password && -n ${AEGIS_PASSWORD_FILE:-} ]]; then password=$(<"$AEGIS_PASSWORD_FILE"); fi
  export NATS_STORE_DIR=${NATS_STORE_DIR:-$dir/nats}
  if [[ -z ${AEGIS_LIVE_NATS_PASSWORD:-} ]]; then export AEGIS_LIVE_NATS_PASSWORD=$password; fi
  begin nats "${monitor##*:}" "$server" --config "$config"
  unset AEGIS_LIVE_NATS_PASSWORD
}

if [[ -n ${AEGIS_NATS_URL:-} ]]; then
  name="NATS at $AEGIS_NATS_URL"
  if [[ -n ${AEGIS_LIVE_NATS_MONITOR:-} ]]; then
    wait_ready "$name" "$monitor" /healthz "start that server, or see why it is not healthy"
  else
    say "$name: not ours, and AEGIS_LIVE_NATS_MONITOR names no address to ask how it is"
  fi
else
  begin_nats
  wait_ready nats "$monitor" /healthz \
    "read its log; another server may have port $nats_port or ${monitor##*:}: see AEGIS_LIVE_NATS_PORT, AEGIS_LIVE_NATS_MONITOR"
  export AEGIS_NATS_URL=nats://127.0.0.1:$nats_port
fi

# -- nodes, feeds, workers ------------------------------------------------------------------

begin supervisor "$port" "$aegis" run --supervisor-only --admin-port "$port"
wait_ready supervisor "127.0.0.1:$port" /readyz "read its log; \`aegis doctor\` says what is wrong with the server"
for node in ${nodes[@]+"${nodes[@]}"}; do
  begin_node "node-$(part_name "$node")" "$node"
done
for feed in "${feeds[@]}"; do
  port=$((port + 1))
  : "${page:=http://127.0.0.1:$port/pages/market}"
  # All of them stand by, and the first becomes the owner: so one that is started again after
  # a failover needs no other options than before.
  begin "feed-$feed" "$port" "$aegis" feed run "$market" --feed "$feed" --role standby \
    --no-supervisor --admin-port "$port"
  wait_ready "feed-$feed" "127.0.0.1:$port" /readyz "read its log"
  wait_live "$feed" "read $dir/log/feed-$feed.log; \`aegis feed validate $market\` checks accounts, fronts and calendar"
done
wait_live "" "read the logs of the feeds; \`aegis feed status\` says who holds the market"
for worker in ${workers[@]+"${workers[@]}"}; do
  begin_node "worker-$(part_name "$worker")" "$worker"
done

trap - INT TERM
if ((${#begun_here[@]} == 0)); then say "all of it runs already: $already parts"; fi
print_status
say "the whole system: http://127.0.0.1:${AEGIS_LIVE_ADMIN_PORT:-8080}/ the market: $page"
