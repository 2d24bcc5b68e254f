#!/usr/bin/env bash
# Runs one `tga` command as N processes on this machine, joined by jax.distributed: what runs on many hosts, tried on
# one. Nothing has to be set; DEVICES_PER_PROCESS and CUDA_VISIBLE_DEVICES can be.
set -euo pipefail
unset CDPATH
cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.."

usage() {
  cat <<'TEXT'
usage: bash launch/multiprocess.sh N COMMAND [ARGUMENTS]

  N                      how many processes; the GPUs of this machine are dealt out evenly
  COMMAND [ARGUMENTS]    as for launch/local.sh, such as: train --config=configs/own_data.py --workdir=runs/mine

  DEVICES_PER_PROCESS=K  CPU only, and K devices in every process

Process 0 writes to the terminal, the others to files that are named at the start. SIGINT and SIGTERM are passed on to
all; the third one kills. If one process fails, its last lines are shown, the others are ended, and its exit status is
this command's.
TEXT
}

say() {
  printf 'launch/multiprocess.sh: %s\n' "$*" >&2
}

fail() {
  say "$@"
  exit 2
}

free_port() {
  local port
  while :; do
    port=$((20000 + RANDOM % 10000)) # below those that systems give to clients
    # Only a connection that somebody answers says that the port is taken.
    (: >"/dev/tcp/127.0.0.1/$port") 2>/dev/null || break
  done
  printf '%s\n' "$port"
}

# How many GPUs jax would find.
gpus() {
  local -a visible
  if [[ ${JAX_PLATFORMS:-} == cpu ]]; then
    printf '0\n'
  elif [[ -n ${CUDA_VISIBLE_DEVICES+set} ]]; then
    IFS=, read -r -a visible <<<"$CUDA_VISIBLE_DEVICES"
    [[ ${visible[*]-} != -1 ]] || visible=()
    printf '%s\n' "${#visible[@]}"
  else
    { nvidia-smi --list-gpus 2>/dev/null || true; } | grep -c '^GPU' || true
  fi
}

# start I COMMAND...: adds a process to `pids`. It leads a group of its own, which ends with it.
start() {
  local i=$1
  shift
  export JAX_PROCESS_ID=$i
  if ((per_process > 0)); then
    JAX_LOCAL_DEVICE_IDS=$(seq -s, $((i * per_process)) $(((i + 1) * per_process - 1)))
    export JAX_LOCAL_DEVICE_IDS
  fi
  set -m
  if ((i == 0)); then
    bash launch/local.sh "$@" </dev/null &
  else
    bash launch/local.sh "$@" </dev/null >"$logs/process-$i.log" 2>&1 &
  fi
  pids[i]=$!
  set +m
}

# send SIGNAL: to every process that still runs.
send() {
  local i
  for i in "${!pids[@]}"; do
    kill -s "$1" -- "${pids[i]}" 2>/dev/null || true
  done
}

kill_groups() {
  local i
  for i in "${!pids[@]}"; do
    kill -s KILL -- "-${pids[i]}" 2>/dev/null || true
  done
}

requests=0

# shellcheck disable=SC2329 # the traps call it
pass_on() {
  requests=$((requests + 1))
  if ((requests < 3)); then
    send "$1"
  else
    kill_groups
  fi
}

# ended I STATUS: what is to be done about a process that has not done its work. The first one is what went wrong.
ended() {
  local i=$1 code=$2 signal=""
  ((status == 0)) || return 0
  status=$code
  if ((code > 128 && requests == 0)); then # `tga` itself ends with 130 if told to
    signal=$(kill -l "$code" 2>/dev/null) || signal=""
  fi
  say "process $i ended with status $code${signal:+ (SIG$signal)}"
  deadline=$((SECONDS + 30))
  ((requests == 0)) || return 0 # they all have been told to end
  if ((i > 0)); then
    tail -n 20 "$logs/process-$i.log" | sed "s/^/[$i] /" >&2
  fi
  send TERM
  deadline=$((SECONDS + 10)) # a process that waits for one that is gone hears nothing
}

case ${1:-} in
  "")
    usage >&2
    exit 2
    ;;
  -h | --help)
    usage
    exit
    ;;
esac
[[ $1 =~ ^[1-9][0-9]{0,3}$ ]] || fail "N is '$1', expected a number of processes from 1"
count=$1
shift
(($# > 0)) || fail "COMMAND: missing, expected one of \`tga\`'s such as train"
if [[ -n ${DEVICES_PER_PROCESS:-} ]]; then
  [[ $DEVICES_PER_PROCESS =~ ^[1-9][0-9]{0,3}$ ]] ||
    fail "DEVICES_PER_PROCESS is '$DEVICES_PER_PROCESS', expected a number of CPU devices from 1"
  export JAX_PLATFORMS=cpu JAX_NUM_CPU_DEVICES=$DEVICES_PER_PROCESS
fi
found=$(gpus)
((found % count == 0)) ||
  fail "$count processes cannot share $found GPUs evenly; CUDA_VISIBLE_DEVICES chooses some, JAX_PLATFORMS=cpu none"
per_process=$((found / count))

bash launch/local.sh help >/dev/null # installs what is missing, once
port=$(free_port)
export JAX_COORDINATOR_ADDRESS=127.0.0.1:$port JAX_COORDINATOR_BIND_ADDRESS=127.0.0.1:$port JAX_NUM_PROCESSES=$count
if ((count > 1)); then
  logs=$(mktemp -d "${TMPDIR:-/tmp}/tga-processes-XXXXXX")
  say "process 0 writes here, the others to $logs/process-*.log"
fi

pids=()
status=0
deadline=""
trap kill_groups EXIT
trap 'pass_on INT' INT
trap 'pass_on TERM' TERM HUP
for ((i = 0; i < count && requests == 0; i++)); do
  start "$i" "$@"
done
while ((${#pids[@]})); do
  for i in "${!pids[@]}"; do
    if ! kill -0 "${pids[i]}" 2>/dev/null; then
      code=0
      wait "${pids[i]}" || code=$?
      kill -s KILL -- "-${pids[i]}" 2>/dev/null || true # what it may have started
      unset "pids[i]"
      ((code == 0)) || ended "$i" "$code"
    fi
  done
  if [[ -n $deadline ]] && ((SECONDS > deadline)); then
    kill_groups
  fi
  sleep 0.2 || true # it dies of the SIGINT of a terminal
done
exit "$status"
