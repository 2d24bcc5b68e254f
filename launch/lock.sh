#!/usr/bin/env bash
# Writes launch/constraints/: for each supported Python, the versions of all that this project and its extras install.
set -euo pipefail
unset CDPATH
cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.."

usage() {
  cat <<'TEXT'
usage: bash launch/lock.sh [UV_ARGUMENTS]

Resolves pyproject.toml with uv (`pip install uv`) to the newest versions that its ranges allow. Versions that are in
the files stay, unless UV_ARGUMENTS say otherwise: --upgrade, or --upgrade-package=NAME. The files have no hashes: pip
takes them for every package or for none, and this project itself, installed as editable, cannot have one.
TEXT
}

fail() {
  printf 'launch/lock.sh: %s\n' "$*" >&2
  exit 2
}

case ${1:-} in
  -h | --help)
    usage
    exit
    ;;
esac
command -v uv >/dev/null || fail "uv is not installed, expected \`pip install uv\`"
for version in 3.11 3.12 3.13; do
  # The Linux that libtpu needs. Other systems take the same versions.
  uv pip compile --quiet --all-extras --python-version "$version" --python-platform x86_64-manylinux_2_31 \
    --custom-compile-command 'bash launch/lock.sh' --no-annotate "$@" pyproject.toml \
    --output-file "launch/constraints/python$version.txt"
done
