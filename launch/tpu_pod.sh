#!/usr/bin/env bash
# Runs `tga train` on all hosts of a Cloud TPU slice, through gcloud. It was tested against a stand-in for gcloud only.
#
# Set these here or in the environment. gcloud must be logged in; for several hosts, `ssh-add` its key first
# (~/.ssh/google_compute_engine).
TPU_NAME=${TPU_NAME:-tga}
ZONE=${ZONE:-}                                     # where, such as us-west4-a; must be set
PROJECT=${PROJECT:-}                               # default: gcloud's
ACCELERATOR_TYPE=${ACCELERATOR_TYPE:-v5litepod-16} # which and how many chips, such as v5p-128 or v6e-16
RUNTIME_VERSION=${RUNTIME_VERSION:-}               # the hosts' image; default: the one for this kind of TPU
SPOT=${SPOT:-0}                                    # 1: cheaper, may be taken away
QUEUED=${QUEUED:-0}                                # 1: wait for the slice in Google's queue instead of failing
NUM_SLICES=${NUM_SLICES:-1}                        # more than 1 needs QUEUED=1; train with --config.mesh.num_slices
NFS=${NFS:-}                                       # HOST:/EXPORT, such as a Filestore's; seen as /mnt/shared
PASS_ENV=${PASS_ENV:-}                             # names of more variables that `run` passes to all hosts
DRY_RUN=${DRY_RUN:-0}                              # 1: print the gcloud commands, run nothing
set -euo pipefail
unset CDPATH
cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.."

usage() {
  cat <<'TEXT'
usage: [VARIABLE=VALUE ...] bash launch/tpu_pod.sh COMMAND

  create              the slice, or the request for it (QUEUED=1)
  setup               copies the files that git tracks here to ~/tga_jax on every host, and installs them
  run [COMMAND] FLAGS `tga train --distributed FLAGS` on every host, or evaluate, caption or sweep, and shows what they write; the training goes on
                      if the connection breaks, and the same command shows it again. HF_TOKEN, WANDB_API_KEY and the
                      variables of PASS_ENV are passed on where they are set
  stop                tells the training to save its state and end; `run` with the same flags resumes
  status              of the slice, and what runs on its hosts
  delete              the slice, with all that is on its hosts

--workdir, the data and the checkpoints to start from must be at the same path on all hosts: below /mnt/shared (NFS=...),
or in a bucket, gs://BUCKET/FOLDER, that the slice's service account may read and write.
The variables are listed at the top of this file. Example, after `create` and `setup`:

  ZONE=us-west4-a bash launch/tpu_pod.sh run --config=configs/own_data.py --workdir=/mnt/shared/runs/mine
TEXT
}

fail() {
  printf 'launch/tpu_pod.sh: %s\n' "$*" >&2
  exit 2
}

# names_to_pass: of the variables that are set here and passed on.
names_to_pass() {
  local name
  # shellcheck disable=SC2086 # the names are parted by blanks or commas
  for name in HF_TOKEN WANDB_API_KEY ${PASS_ENV//,/ }; do
    [[ $name =~ ^[A-Za-z_][A-Za-z0-9_]*$ ]] || fail "PASS_ENV: '$name' is no name of a variable"
    if [[ -n ${!name+set} ]]; then
      printf '%s\n' "$name"
    elif [[ " ${PASS_ENV//,/ } " == *" $name "* ]]; then
      fail "PASS_ENV: $name is not set"
    fi
  done
}

# packed NAMES: the variables with their values as one text, which builtins make: no process list shows it.
packed() {
  local name
  for name in "$@"; do
    printf '%s=%s\0' "$name" "${!name}"
  done | base64 -w0
}

# tpus NOUN VERB NAME [ARGUMENTS]: a gcloud command about this zone's TPUs.
tpus() {
  local -a line=(gcloud compute tpus "$@" "--zone=$ZONE" --quiet)
  [[ -z $PROJECT ]] || line+=("--project=$PROJECT")
  if [[ $DRY_RUN == 1 ]]; then
    printf '%q ' "${line[@]}"
    printf '\n'
  else
    "${line[@]}"
  fi
}

# on_hosts SCRIPT [FLAGS OF GCLOUD]: runs it on all hosts of all slices at once; fails if it fails on one.
on_hosts() {
  local script=$1
  shift
  tpus "${group[@]}" ssh "$TPU_NAME" "${everywhere[@]}" "$@" "--command=$script"
}

# Whether a training runs on a host, as a command in ~/tga_jax there.
running="[ -s run.pid ] && [ ! -s run.status ] && kill -0 \$(cat run.pid) 2>/dev/null"

runtime_version() {
  case $ACCELERATOR_TYPE in
    v6e-*) printf 'v2-alpha-tpuv6e\n' ;;
    v5p-*) printf 'v2-alpha-tpuv5\n' ;;
    v5litepod-*) printf 'v2-alpha-tpuv5-lite\n' ;;
    v[234]-*) printf 'tpu-ubuntu2204-base\n' ;;
    *) fail "ACCELERATOR_TYPE: no image is known for $ACCELERATOR_TYPE, set RUNTIME_VERSION" ;;
  esac
}

create() {
  local version
  version=${RUNTIME_VERSION:-$(runtime_version)}
  local -a flags=("--accelerator-type=$ACCELERATOR_TYPE")
  [[ $SPOT == 0 ]] || flags+=(--spot)
  if [[ $QUEUED == 1 ]]; then
    local -a nodes=("--node-id=$TPU_NAME")
    ((NUM_SLICES == 1)) || nodes=("--node-count=$NUM_SLICES" "--node-prefix=$TPU_NAME")
    tpus queued-resources create "$TPU_NAME" "${nodes[@]}" "${flags[@]}" "--runtime-version=$version"
  else
    tpus tpu-vm create "$TPU_NAME" "${flags[@]}" "--version=$version"
  fi
}

setup() {
  local mount=""
  archive=$(mktemp "${TMPDIR:-/tmp}/tga_jax-XXXXXX")
  trap 'rm -f -- "$archive"' EXIT
  git ls-files -z | tar --null -T - -czf "$archive"
  tpus "${group[@]}" scp "$archive" "$TPU_NAME:tga_jax.tar.gz" "${everywhere[@]}"
  if [[ -n $NFS ]]; then
    mount="mountpoint -q /mnt/shared || { sudo apt-get update -q && sudo apt-get install -qy nfs-common &&
      sudo mkdir -p /mnt/shared && sudo mount -t nfs $(printf %q "$NFS") /mnt/shared; }"
  fi
  # The image's Python is older than this project's; uv brings one.
  on_hosts "set -e
mkdir -p tga_jax
tar -xzf tga_jax.tar.gz -C tga_jax
$mount
cd tga_jax
python3 -m pip install --quiet --user uv
[ -x .venv/bin/python ] || python3 -m uv venv --python 3.12 .venv
locked=launch/constraints/python3.12.txt
python3 -m uv pip install --quiet --python .venv/bin/python --constraints \$locked --build-constraints \$locked -e '.[tpu,gcs]'"
}

run() {
  local training names
  local -a passed flags=()
  local command=train
  if [[ $1 != -* ]]; then
    command=$1
    shift
  fi
  training=$(printf '%q ' .venv/bin/tga "$command" --distributed "$@")
  names=$(names_to_pass)
  mapfile -t passed < <(printf '%s' "${names:+$names$'\n'}")
  if ((${#passed[@]})); then
    # ssh itself carries them, in a variable of a kind that Debian's and Ubuntu's sshd accept.
    printf 'passed to all hosts: %s\n' "${passed[*]}"
    LC_TGA_ENV=$(packed "${passed[@]}")
    export LC_TGA_ENV
    flags+=(--ssh-flag=-oSendEnv=LC_TGA_ENV)
  fi
  # In a session of its own, so that it outlives the connection.
  on_hosts "cd tga_jax || exit 2
if $running; then
  echo 'a training runs already; this is what it writes'
else
  while IFS= read -r -d '' pair; do export \"\$pair\"; done < <(printf %s \"\${LC_TGA_ENV:-}\" | base64 -d)
  unset LC_TGA_ENV
  for name in ${passed[*]-}; do
    [ -n \"\${!name+set}\" ] || { echo \"\$name did not come: sshd here takes no LC_ variables\" >&2; exit 2; }
  done
  rm -f run.status run.pid
  setsid bash -c $(printf %q "$training>run.log 2>&1 & echo \$! >run.pid; wait \$!; echo \$? >run.status") \\
    </dev/null >/dev/null 2>&1 &
  until [ -s run.pid ]; do sleep 0.1; done
fi
tail -n +1 -f --pid=\$(cat run.pid) run.log
until [ -s run.status ]; do sleep 0.1; done
exit \$(cat run.status)" "${flags[@]}"
}

stop() {
  on_hosts "cd tga_jax && if $running; then kill -TERM \$(cat run.pid); else echo 'no training runs'; fi"
}

status() {
  if [[ $QUEUED == 1 ]]; then
    tpus queued-resources describe "$TPU_NAME" '--format=value(state.state)'
  fi
  ((NUM_SLICES > 1)) || tpus tpu-vm describe "$TPU_NAME" '--format=value(acceleratorType,state)'
  on_hosts "hostname; cd tga_jax && if $running; then tail -n 3 run.log; else echo 'no training runs'; fi"
}

delete() {
  if [[ $QUEUED == 1 ]]; then
    tpus queued-resources delete "$TPU_NAME" --force
  else
    tpus tpu-vm delete "$TPU_NAME"
  fi
}

command=${1:-}
case $command in
  "")
    usage >&2
    exit 2
    ;;
  -h | --help)
    usage
    exit
    ;;
  run)
    (($# > 1)) || fail "run: expected the flags of \`tga train\`, such as --config=FILE --workdir=DIR"
    [[ $2 == -* || " train sweep evaluate caption " == *" $2 "* ]] ||
      fail "run: '$2', expected train, sweep, evaluate or caption"
    ;;
  create | setup | stop | status | delete) (($# == 1)) || fail "$command: unknown argument '$2'" ;;
  *) fail "unknown command '$command', expected create, setup, run, stop, status or delete" ;;
esac
[[ $NUM_SLICES =~ ^[1-9][0-9]*$ ]] || fail "NUM_SLICES is '$NUM_SLICES', expected a number from 1"
((NUM_SLICES == 1)) || [[ $QUEUED == 1 ]] || fail "NUM_SLICES=$NUM_SLICES: several slices need QUEUED=1"
group=(tpu-vm) everywhere=(--worker=all)
((NUM_SLICES == 1)) || group=(queued-resources) everywhere=(--node=all --worker=all)
[[ -n $ZONE ]] || fail "ZONE: not set, expected the slice's, such as us-west4-a"
if [[ $DRY_RUN != 1 ]]; then
  command -v gcloud >/dev/null || fail "gcloud is not installed, expected Google Cloud's command line"
fi
shift
"$command" "$@"
