#!/bin/sh
# Makes .venv hold the versions in requirements.lock and this checkout as an editable package.
# Returns at once where that is done; starts .venv again where it was interrupted. Says one line a step, on stderr.
set -eu
cd "$(dirname "$0")/.."

venv=.venv
stamp=$venv/.setup-done             # what .venv was made from
unfinished=$venv/.setup-unfinished  # there while a set-up runs, and after one that was interrupted
log=$venv/setup.log

say() { printf 'setup: %s\n' "$1" >&2; }
die() { say "$1"; exit 1; }

fingerprint() { { cat requirements.lock pyproject.toml .ci/setup.sh; pwd; } | cksum; }

is_done() {
  [ -x $venv/bin/python ] && [ -x $venv/bin/headrace ] && [ ! -e $unfinished ] \
    && [ "$(cat $stamp 2>/dev/null)" = "$(fingerprint)" ]
}

is_new_enough() { "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; }

find_python() {
  for python in ${PYTHON:-python3 python3.13 python3.12 python3.11}; do
    if command -v "$python" >/dev/null && is_new_enough "$python"; then return; fi
  done
  found=$("${PYTHON:-python3}" --version 2>&1) || found="no ${PYTHON:-python3}"
  die "Headrace requires Python 3.11 or newer; got $found. Install one, or name it: PYTHON=python3.12 make setup"
}

# Debian and its kin keep ensurepip, without which venv cannot work, in a package of its own.
install_ensurepip() {
  package=$("$python" -c 'import sys; print("python%d.%d-venv" % sys.version_info[:2])')
  command -v apt-get >/dev/null || die "$python has no ensurepip: install the part of Python that holds it, then make setup"
  if [ "$(id -u)" = 0 ]; then as_root=
  elif sudo -n true 2>/dev/null; then as_root='sudo -n'
  else die "$python has no ensurepip. Install it, then go on: sudo apt-get install $package && make setup"; fi
  say "installing $package with apt-get"
  $as_root apt-get update -qq >>$log 2>&1 || true # one broken source must not stop us: the next step finds out
  $as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$package" >>$log 2>&1 \
    || explain "apt-get could not install $package"
}

explain() {
  if grep -qiE 'resolv|lookup address|connect|unreachable|timed out|failed to fetch|proxy|certificate|no such host' $log; then
    die "$1: the network did not answer (a proxy or SSL_CERT_FILE to set?). Details: $log. Then: make setup"
  fi
  die "$1: $(grep -v '^ *$' $log | tail -n 1) Details: $log"
}

make_venv() {
  if [ -e $venv ] && { [ -e $unfinished ] || ! is_new_enough $venv/bin/python || ! $venv/bin/python -c 'import pip' 2>/dev/null; }; then
    say "$venv was left half made, or its Python is gone or too old: starting it again"
    rm -rf $venv
  fi
  if [ -x $venv/bin/python ]; then touch $unfinished; : >$log; return; fi
  find_python
  mkdir -p $venv; touch $unfinished; : >$log
  "$python" -c 'import ensurepip, venv' 2>/dev/null || install_ensurepip
  say "making $venv with $("$python" --version 2>&1)"
  "$python" -m venv $venv >>$log 2>&1 || explain "$python could not make $venv"
}

in_venv() { $venv/bin/python -m "$@" >>$log 2>&1; }

install_packages() {
  count=$(grep -c '==' requirements.lock)
  pip_options='--disable-pip-version-check --no-input --quiet --retries 2'
  say "installing uv"
  if in_venv pip install $pip_options "$(grep '^uv==' requirements.lock)"; then
    say "installing $count packages"
    in_venv uv pip install --system-certs --python $venv/bin/python -r requirements.lock || explain "uv could not install them"
  else
    say "installing $count packages with pip, which is slower (uv could not be installed)"
    grep -v '^uv==' requirements.lock >$venv/without-uv.txt
    in_venv pip install $pip_options -r $venv/without-uv.txt || explain "pip could not install them"
  fi
  say "installing headrace itself"
  in_venv pip install $pip_options --no-deps --no-build-isolation --editable . || explain "headrace could not be installed"
}

# Two at once would each take the other's half-made .venv for an interrupted one. What a killed set-up left running
# holds the lock as well, until it ends.
wait_for_others() {
  command -v flock >/dev/null || return 0
  exec 9<.ci/setup.sh
  flock -n 9 || { say "another set-up is at work here: waiting for it"; flock 9; }
}

is_done && exit 0
wait_for_others
is_done && exit 0
started=$(date +%s)
[ -z "${SSL_CERT_FILE:-}" ] || export PIP_CERT="${PIP_CERT:-$SSL_CERT_FILE}" # pip knows only its own name for it
make_venv
install_packages
fingerprint >$stamp
rm -f $unfinished
say "done in $(($(date +%s) - started)) s"
