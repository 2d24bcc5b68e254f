#!/usr/bin/env bash
# Puts variables into the Secret `tga-env` of a Kubernetes cluster, which the pods of gke_jobset.yaml have as their
# environment. It was tested against a stand-in for kubectl only.
set -euo pipefail

usage() {
  cat <<'TEXT'
usage: [NAME=VALUE ...] bash launch/gke_secret.sh [NAME ...]

Takes HF_TOKEN and WANDB_API_KEY where they are set, and the variables NAME, to the namespace that kubectl is set to.
Values go to kubectl's standard input alone, so that neither a process list nor a file here has them.
TEXT
}

fail() {
  printf 'launch/gke_secret.sh: %s\n' "$*" >&2
  exit 2
}

case ${1:-} in
  -h | --help)
    usage
    exit
    ;;
esac
names=()
for name in HF_TOKEN WANDB_API_KEY "$@"; do
  [[ $name =~ ^[A-Za-z_][A-Za-z0-9_]*$ ]] || fail "'$name' is no name of a variable"
  if [[ -n ${!name+set} ]]; then
    names+=("$name")
  elif (($# > 0)) && [[ " $* " == *" $name "* ]]; then
    fail "$name is not set"
  fi
done
((${#names[@]})) || fail "neither HF_TOKEN nor WANDB_API_KEY is set, expected one of them or NAME"
command -v kubectl >/dev/null || fail "kubectl is not installed, expected Kubernetes' command line"
printf 'in the Secret tga-env: %s\n' "${names[*]}"
{
  printf 'apiVersion: v1\nkind: Secret\nmetadata:\n  name: tga-env\ntype: Opaque\ndata:\n'
  for name in "${names[@]}"; do
    printf '  %s: "%s"\n' "$name" "$(printf %s "${!name}" | base64 -w0)"
  done
} | kubectl apply --server-side --force-conflicts -f - # applied here it would be kept a second time, as an annotation
