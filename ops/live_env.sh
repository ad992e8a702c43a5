# What start_live_env.sh and stop_live_env.sh share; it is sourced by them.
# shellcheck shell=bash disable=SC2034 # they read what is set here

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)

say() { printf '%s\n' "$*"; }

# fail WHAT TODO: one line that says what is wrong, one that says what to do about it.
fail() {
  printf 'error: %s\n' "$1" >&2
  if [[ -n ${2:-} ]]; then printf '  do: %s\n' "$2" >&2; fi
  exit "${3:-1}"
}

# Lines NAME=VALUE, as Docker Compose reads them. Nothing in the file is run, and what the
# environment has already stays.
read_env_file() {
  local file=$1 line name value
  [[ -r $file ]] || fail "$file cannot be read" "copy ops/.env.example, or name another file with --env" 2
  while IFS= read -r line || [[ -n $line ]]; do
    [[ $line =~ ^[[:space:]]*(#|$) ]] && continue
    [[ $line =~ ^[[:space:]]*([A-Za-z_][A-Za-z0-9_]*)=(.*)$ ]] ||
      fail "$file: no NAME=VALUE: ${line%%=*}" "mend that line" 2
    name=${BASH_REMATCH[1]} value=${BASH_REMATCH[2]}
    if [[ $value =~ ^\"(.*)\"[[:space:]]*$ || $value =~ ^\'(.*)\'[[:space:]]*$ ]]; then
      value=${BASH_REMATCH[1]}
    else
      value=${value%%[[:space:]]#*}
      value=${value%"${value##*[![:space:]]}"}
    fi
    if [[ -n $value && -z ${!name+set} ]]; then export "$name=$value"; fi
  done <"$file"
}

# settings [ARGUMENT ...]: read the arguments that both have, then set what was left out.
settings() {
  local env_file=$here/.env
  mode=run
  names=()
  while (($#)); do
    case $1 in
    --env)
      (($# > 1)) || fail "--env: a file is missing" "" 2
      env_file=$2
      shift
      ;;
    --status) mode=status ;;
    --keep) keep=yes ;;
    -h | --help)
      usage
      exit 0
      ;;
    -*) fail "there is no option $1" "see --help" 2 ;;
    *) names+=("$1") ;;
    esac
    shift
  done
  read_env_file "$env_file"
  dir=${AEGIS_LIVE_DIR:-${XDG_STATE_HOME:-$HOME/.local/state}/aegis-live}
  stop_seconds=${AEGIS_LIVE_STOP_SECONDS:-40}
  mkdir -p "$dir/run" "$dir/log" || fail "$dir cannot be made" "set AEGIS_LIVE_DIR to a folder of yours"
  chmod 700 "$dir"
  order=$dir/run/order
  touch "$order"
}

# Two at once would start everything twice.
only_one() {
  command -v flock >/dev/null || return 0
  exec 9>"$dir/run/lock"
  flock -n 9 || fail "another start or stop of $dir is under way" "wait until it has ended"
}

# -- processes ------------------------------------------------------------------------------
#
# A pid file holds the pid and when the process began, so that a number which was given to
# another process since is nobody of ours.

begun() {
  local told
  told=$(ps -o stat= -o lstart= -p "$1" 2>/dev/null) || return 1
  # What has ended and was not waited for (a container without an init) is gone, too.
  [[ $told != Z* ]] && xargs <<<"${told#* }"
}

pid_of() {
  local file=$dir/run/$1.pid pid when
  [[ -r $file ]] || return 1
  {
    read -r pid
    read -r when
  } <"$file"
  [[ -n $pid && "$(begun "$pid")" == "$when" ]] && printf '%s' "$pid"
}

# stop_part NAME: SIGTERM, and after a while SIGKILL; 1 if it had to be that.
stop_part() {
  local name=$1 pid until
  if ! pid=$(pid_of "$name"); then
    rm -f "$dir/run/$name.pid"
    return 0
  fi
  kill -TERM "$pid" 2>/dev/null
  until=$((SECONDS + stop_seconds))
  while pid_of "$name" >/dev/null; do
    if ((SECONDS >= until)); then
      kill -KILL "$pid" 2>/dev/null
      rm -f "$dir/run/$name.pid"
      say "$name: did not end within $stop_seconds s and was killed (pid $pid); its log is $dir/log/$name.log"
      return 1
    fi
    sleep 0.1
  done
  rm -f "$dir/run/$name.pid"
  say "$name: stopped"
}

# stop_parts NAME ...: stop them, the last first.
stop_parts() {
  local at code=0
  for ((at = $#; at > 0; at--)); do
    stop_part "${!at}" || code=1
  done
  return $code
}

# Print what runs; 1 if something that was started does not.
print_status() {
  local name pid port code=0 count=0
  printf '%-20s %-8s %-6s %s\n' part pid port log
  while read -r name port; do
    count=$((count + 1))
    if pid=$(pid_of "$name"); then
      printf '%-20s %-8s %-6s %s\n' "$name" "$pid" "$port" "$dir/log/$name.log"
    else
      printf '%-20s %-8s %-6s %s\n' "$name" gone "$port" "$dir/log/$name.log"
      code=1
    fi
  done <"$order"
  if ((count == 0)); then
    say "nothing was started"
    return 1
  fi
  return $code
}
