#!/usr/bin/env bash
# The test suite on the lowest and on the newest versions that pyproject.toml allows, and a table of both.
set -euo pipefail
unset CDPATH
cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.."

usage() {
  cat <<'TEXT'
usage: bash tests/versions.sh [lowest|newest ...]

  lowest   the lowest versions of all direct requirements, on the oldest Python that is supported (3.11)
  newest   the newest of all requirements, on the newest Python that is supported (3.13)

Without arguments both, one after the other; each installs some GB and takes as long as the tests. Each has a folder in
runs/versions/ with its environment and its log. Ends with 1 if tests failed. Needs uv (`pip install uv`), and finds or
fetches the Pythons through it.
TEXT
}

fail() {
  printf 'tests/versions.sh: %s\n' "$*" >&2
  exit 2
}

shown=(jax flax optax orbax-checkpoint grain transformers tokenizers numpy pillow torch)

# versions PYTHON: of the packages above, as cells of a table.
versions() {
  "$1" -c '
import importlib.metadata, platform, sys
print(platform.python_version(), *map(importlib.metadata.version, sys.argv[1:]), sep=" | ")' "${shown[@]}"
}

# run NAME PYTHON RESOLUTION: installs, tests, and writes the table's row to runs/versions/NAME/row.
run() {
  local folder=runs/versions/$1 status=0
  local python=$folder/venv/bin/python
  rm -rf "$folder"
  mkdir -p "$folder"
  printf '| %s | cannot be installed |\n' "$1" >"$folder/row"
  printf '%s: installing\n' "$1"
  uv venv --quiet --python "$2" "$folder/venv" || return
  uv pip install --quiet --python "$python" --resolution "$3" -e '.[test]' || return
  printf '%s: testing; %s/log grows\n' "$1" "$folder"
  "$python" -m pytest -n 2 -p no:cacheprovider >"$folder/log" 2>&1 || status=$?
  printf '| %s | %s | %s (status %d) |\n' "$1" "$(versions "$python")" "$(tail -n 1 "$folder/log")" "$status" \
    >"$folder/row"
  return "$status"
}

case ${1:-} in
  -h | --help)
    usage
    exit
    ;;
esac
command -v uv >/dev/null || fail "uv is not installed, expected \`pip install uv\`"
(($# > 0)) || set -- lowest newest
for name in "$@"; do
  [[ $name == lowest || $name == newest ]] || fail "unknown argument '$name', expected lowest or newest"
done
failed=0
for name in "$@"; do
  case $name in
    lowest) run lowest 3.11 lowest-direct || failed=1 ;;
    newest) run newest 3.13 highest || failed=1 ;;
  esac
done
printf '\n| versions | Python |'
printf ' %s |' "${shown[@]}" 'tests'
printf '\n|---|---|'
printf -- '---|%.0s' "${shown[@]}" 'tests'
printf '\n'
for name in "$@"; do
  cat "runs/versions/$name/row"
done
exit "$failed"
