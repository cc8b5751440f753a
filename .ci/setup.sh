#!/bin/sh
# Makes .venv hold the versions in requirements.lock and this checkout as an editable package; Java, and the jars of
# Kafka and of Spark's connectors, are there then, too, and a redis-server for the tests where one can be had.
# Returns at once where that is done; starts .venv again where it was interrupted. Says one line a step, on stderr.
set -eu
cd "$(dirname "$0")/.."

venv=.venv
stamp=$venv/.setup-done             # what .venv was made from
unfinished=$venv/.setup-unfinished  # there while a set-up runs, and after one that was interrupted
log=$venv/setup.log
java_stamp=$venv/.java-done         # the java that was found fit
gomp_stamp=$venv/.gomp-done         # somebody has looked for libgomp, which ALS needs
redis_stamp=$venv/.redis-done       # the redis-server that was found, or "none" where there is no way to one
home=.headrace

say() { printf 'setup: %s\n' "$1" >&2; }
die() { say "$1"; exit 1; }

fingerprint() { { cat requirements.lock pyproject.toml .ci/setup.sh; pwd; } | cksum; }

has_packages() {
  [ -x $venv/bin/python ] && [ -x $venv/bin/headrace ] && [ ! -e $unfinished ] \
    && [ "$(cat $stamp 2>/dev/null)" = "$(fingerprint)" ]
}

find_java() { if [ -n "${JAVA_HOME:-}" ]; then command -v "$JAVA_HOME/bin/java"; else command -v java; fi; }

has_java() { java=$(find_java) && [ "$(cat $java_stamp 2>/dev/null)" = "$java" ]; }

# Those of the tests only: with "none", nobody is asked again until .venv is made anew.
has_redis() { case $(cat $redis_stamp 2>/dev/null) in "") return 1 ;; none) ;; *) [ -x "$(cat $redis_stamp)" ] ;; esac; }

# A jar that was deleted is fetched again, hence more than a stamp: a tenth of a second.
is_done() { has_packages && has_java && has_redis && [ -e $gomp_stamp ] && $venv/bin/python -m streaming.kafka.jars --check $home; }

is_new_enough() { "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; }

find_python() {
  for python in ${PYTHON:-python3 python3.13 python3.12 python3.11}; do
    if command -v "$python" >/dev/null && is_new_enough "$python"; then return; fi
  done
  found=$("${PYTHON:-python3}" --version 2>&1) || found="no ${PYTHON:-python3}"
  die "Headrace requires Python 3.11 or newer; got $found. Install one, or name it: PYTHON=python3.12 make setup"
}

# as_root COMMAND...: runs it; fails where we may not.
may_be_root() { [ "$(id -u)" = 0 ] || sudo -n true 2>/dev/null; }
as_root() { if [ "$(id -u)" = 0 ]; then "$@"; else sudo -n "$@"; fi; }

apt_update() { as_root apt-get update -qq >>$log 2>&1 || true; } # one broken source must not stop us: what follows finds out

apt_get_install() {
  say "installing $1 with apt-get"
  as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$1" >>$log 2>&1
}
apt_install() { apt_get_install "$1" || explain "apt-get could not install $1"; }

# Debian and its kin keep ensurepip, without which venv cannot work, in a package of its own.
install_ensurepip() {
  package=$("$python" -c 'import sys; print("python%d.%d-venv" % sys.version_info[:2])')
  command -v apt-get >/dev/null || die "$python has no ensurepip: install the part of Python that holds it, then make setup"
  may_be_root || die "$python has no ensurepip. Install it, then go on: sudo apt-get install $package && make setup"
  apt_update
  apt_install "$package"
}

# Spark asks for jdk.incubator.vector, which trimmed Javas leave out.
is_fit_java() {
  modules=$("$1" --list-modules 2>/dev/null) || return 1
  case $modules in *java.base@17*|*java.base@21*) ;; *) return 1 ;; esac
  case $modules in *jdk.incubator.vector*) ;; *) return 1 ;; esac
}

java_package() {
  for package in openjdk-17-jre-headless openjdk-21-jre-headless; do
    if apt-cache show $package >/dev/null 2>&1; then echo $package; return; fi
  done
  echo openjdk-17-jre-headless
}

install_java() {
  : >$log
  if java=$(find_java) && is_fit_java "$java"; then echo "$java" >$java_stamp; return; fi
  required="Headrace requires a whole Java 17 or 21 for Kafka and Spark; got ${java:-none}."
  [ -z "${JAVA_HOME:-}" ] || die "$required Name another by JAVA_HOME, then: make setup"
  command -v apt-get >/dev/null || die "$required Install one (a headless JRE is enough), then: make setup"
  may_be_root || die "$required Install it, then go on: sudo apt-get install $(java_package) && make setup"
  apt_update
  apt_install "$(java_package)"
  java=$(find_java) && is_fit_java "$java" || die "$required It was installed, but is not the java of the PATH: name it by JAVA_HOME"
  echo "$java" >$java_stamp
}

# Debian's redis-tools has the server's program, under the name of another of its uses, and no service that would start
# with the machine, as the package redis-server has. The program does what the name says by which it is called.
link_redis() {
  program=$(command -v redis-check-rdb) || return 1
  ln -sf "$program" $venv/bin/redis-server
  $venv/bin/redis-server --version >>$log 2>&1 || { rm -f $venv/bin/redis-server; return 1; }
}

# Nothing but the tests of Redis needs it: where it cannot be had, they say so, and all else goes on.
install_redis() {
  : >$log
  if redis=$(command -v redis-server); then echo "$redis" >$redis_stamp; return; fi
  if ! link_redis && command -v apt-get >/dev/null && may_be_root; then
    apt_update
    apt_get_install redis-tools && link_redis || true
  fi
  if [ -x $venv/bin/redis-server ]; then echo $venv/bin/redis-server >$redis_stamp; return; fi
  say "no redis-server, so that the tests of Redis are skipped. To have them: sudo apt-get install redis-tools && rm $redis_stamp && make setup"
  echo none >$redis_stamp
}

finds_gomp() { $venv/bin/python -c 'import ctypes; ctypes.CDLL("libgomp.so.1")' 2>/dev/null; }

# Only ALS (the package implicit) wants the system's own copy: where it cannot be had, all else goes on.
install_gomp() {
  : >$log
  if ! finds_gomp && command -v apt-get >/dev/null && may_be_root; then
    apt_update
    apt_get_install libgomp1 || true
  fi
  finds_gomp || say "no libgomp, so that ALS cannot be fitted. To have it: sudo apt-get install libgomp1"
  : >$gomp_stamp
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
if ! has_packages; then
  make_venv
  install_packages
  fingerprint >$stamp
  rm -f $unfinished
fi
has_java || install_java
has_redis || install_redis
[ -e $gomp_stamp ] || install_gomp
$venv/bin/python -m streaming.kafka.jars $home || exit 1
say "done in $(($(date +%s) - started)) s"
