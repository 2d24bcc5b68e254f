#!/usr/bin/env bash
# Runs a `tga` command, or the tests, on this machine; the first run makes .venv and installs what is missing.
set -euo pipefail
unset CDPATH
unset PYTHONDONTWRITEBYTECODE # or every command would compile all modules again
cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.."

usage() {
  cat <<'TEXT'
usage: bash launch/local.sh COMMAND [ARGUMENTS]

  demo [flags]         the demo, from nothing to a report
  test [pytest args]   tests, lint, format and types
  help                 the commands of `tga` and their flags; each can stand for COMMAND

Works from any folder; relative paths in ARGUMENTS start at the repository's root. PYTHON names the interpreter that
.venv is made with (default: python3; 3.11 or later).
TEXT
}

fail() {
  printf 'launch/local.sh: %s\n' "$*" >&2
  exit 2
}

make_venv() {
  local python=${PYTHON:-python3} version
  version=$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2], sys.version_info >= (3, 11))' 2>/dev/null) ||
    fail "$python cannot be run, expected Python 3.11 or later; name one with PYTHON=..."
  [[ $version == *" True" ]] ||
    fail "$python is Python ${version% *}, expected 3.11 or later; name one with PYTHON=..."
  "$python" -m venv .venv >&2 || fail "$python -m venv .venv failed, see above (on Debian: apt install python3-venv)"
}

# What .venv was installed for: the requirements and, since an editable install and its scripts hold it, this folder.
wanted_stamp() {
  { pwd && cat pyproject.toml; } | cksum
}

stamped() {
  [[ -f .venv/installed-$1 && $(<".venv/installed-$1") == "$2" ]]
}

# ensure base|test: nothing to do where the stamp says so; `test` holds all of `base`.
ensure() {
  local extra=$1 stamp target=.
  stamp=$(wanted_stamp)
  if stamped test "$stamp" || { [[ $extra == base ]] && stamped base "$stamp"; }; then
    return
  fi
  .venv/bin/python -m pip --version >/dev/null 2>&1 || make_venv
  [[ $extra == base ]] || target=".[$extra]"
  printf 'Installing into .venv; the first time takes some minutes.\n' >&2
  rm -f .venv/installed-*
  # --no-compile: most modules are never imported; Python compiles and keeps those that are.
  .venv/bin/python -m pip install --quiet --disable-pip-version-check --no-compile -e "$target" >&2 ||
    fail "pip could not install $target, see above; the same command tries again"
  printf '%s\n' "$stamp" >".venv/installed-$extra"
}

failed=()

check() {
  local heading=$1
  shift
  printf '\n== %s ==\n' "$heading"
  "$@" || failed+=("$heading")
}

run_tests() {
  local python=.venv/bin/python
  check tests "$python" -m pytest -n 2 "$@"
  check lint "$python" -m ruff check .
  check format "$python" -m ruff format --check .
  check types "$python" -m pyright --pythonpath "$python"
  if ((${#failed[@]})); then
    printf '\nfailed: %s\n' "${failed[*]}" >&2
    exit 1
  fi
}

case ${1:-} in
  "")
    usage >&2
    exit 2
    ;;
  -h | --help)
    usage
    ;;
  test)
    shift
    ensure test
    run_tests "$@"
    ;;
  *)
    ensure base
    # Without huge pages a fifth of a training's CPU time goes to page faults: buffers are freed and made at every step.
    export GLIBC_TUNABLES="${GLIBC_TUNABLES:-glibc.malloc.hugetlb=1}"
    exec .venv/bin/tga "$@"
    ;;
esac
