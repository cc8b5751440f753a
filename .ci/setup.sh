#!/bin/sh
# Installs the versions in requirements.lock and this checkout (editable) into .venv; also Java, the jars of Kafka and
# of Spark's connectors, and for the tests a redis-server if one is available.
# Returns at once if all is done; makes .venv anew if a set-up was interrupted. Prints one line a step to stderr.
set -eu
cd "$(dirname "$0")/.."

venv=.venv
stamp=$venv/.setup-done             # checksum of what .venv was made from
unfinished=$venv/.setup-unfinished  # exists during a set-up, and after an interrupted one
log=$venv/setup.log
java_stamp=$venv/.java-done         # path of the java that passed the checks
gomp_stamp=$venv/.gomp-done         # libgomp, which ALS needs, was looked for
redis_stamp=$venv/.redis-done       # path of redis-server, or "none" if it cannot be installed
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

# Only tests need it: after "none" there is no further attempt until .venv is made anew.
has_redis() { case $(cat $redis_stamp 2>/dev/null) in "") return 1 ;; none) ;; *) [ -x "$(cat $redis_stamp)" ] ;; esac; }

# The jars are checked each time (a tenth of a second), so that a deleted one is downloaded again.
is_done() { has_packages && has_java && has_redis && [ -e $gomp_stamp ] && $venv/bin/python -m streaming.jars --check $home; }

is_new_enough() { "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; }

find_python() {
  for python in ${PYTHON:-python3 python3.13 python3.12 python3.11}; do
    if command -v "$python" >/dev/null && is_new_enough "$python"; then return; fi
  done
  found=$("${PYTHON:-python3}" --version 2>&1) || found="no ${PYTHON:-python3}"
  die "Headrace requires Python 3.11 or newer; got $found. Install it, or set PYTHON: PYTHON=python3.12 make setup"
}

# as_root COMMAND...: runs it as root; fails without the right to.
may_be_root() { [ "$(id -u)" = 0 ] || sudo -n true 2>/dev/null; }
as_root() { if [ "$(id -u)" = 0 ]; then "$@"; else sudo -n "$@"; fi; }

apt_update() { as_root apt-get update -qq >>$log 2>&1 || true; } # one broken source is no failure: the next install fails if it matters

apt_get_install() {
  say "installing $1 with apt-get"
  as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$1" >>$log 2>&1
}
apt_install() { apt_get_install "$1" || explain "apt-get could not install $1"; }

# Debian and its derivatives have ensurepip, which venv requires, in a separate package.
install_ensurepip() {
  package=$("$python" -c 'import sys; print("python%d.%d-venv" % sys.version_info[:2])')
  command -v apt-get >/dev/null || die "$python has no ensurepip: install the package of Python that has it, then make setup"
  may_be_root || die "$python has no ensurepip. Install it, then go on: sudo apt-get install $package && make setup"
  apt_update
  apt_install "$package"
}

# Spark requires jdk.incubator.vector, which reduced builds of Java lack.
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
  required="Headrace requires a complete Java 17 or 21 for Kafka and Spark; got ${java:-none}."
  [ -z "${JAVA_HOME:-}" ] || die "$required Set JAVA_HOME to another one, then: make setup"
  command -v apt-get >/dev/null || die "$required Install one (a headless JRE is enough), then: make setup"
  may_be_root || die "$required Install it, then go on: sudo apt-get install $(java_package) && make setup"
  apt_update
  apt_install "$(java_package)"
  java=$(find_java) && is_fit_java "$java" || die "$required It was installed, but is not the java on the PATH: set JAVA_HOME"
  echo "$java" >$java_stamp
}

# Debian's redis-tools has the server's program under the name redis-check-rdb, and unlike the package redis-server no
# service that starts with the machine. The program acts as the server if it is called redis-server.
link_redis() {
  program=$(command -v redis-check-rdb) || return 1
  ln -sf "$program" $venv/bin/redis-server
  $venv/bin/redis-server --version >>$log 2>&1 || { rm -f $venv/bin/redis-server; return 1; }
}

# Only the tests of Redis need it: without it they are skipped with a message.
install_redis() {
  : >$log
  if redis=$(command -v redis-server); then echo "$redis" >$redis_stamp; return; fi
  if ! link_redis && command -v apt-get >/dev/null && may_be_root; then
    apt_update
    apt_get_install redis-tools && link_redis || true
  fi
  if [ -x $venv/bin/redis-server ]; then echo $venv/bin/redis-server >$redis_stamp; return; fi
  say "no redis-server, so the tests of Redis are skipped. To run them: sudo apt-get install redis-tools && rm $redis_stamp && make setup"
  echo none >$redis_stamp
}

finds_gomp() { $venv/bin/python -c 'import ctypes; ctypes.CDLL("libgomp.so.1")' 2>/dev/null; }

# Only ALS (the package implicit) needs the system's copy: without it, everything else works.
install_gomp() {
  : >$log
  if ! finds_gomp && command -v apt-get >/dev/null && may_be_root; then
    apt_update
    apt_get_install libgomp1 || true
  fi
  finds_gomp || say "no libgomp, so ALS cannot be fitted. To install it: sudo apt-get install libgomp1"
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
    say "$venv is incomplete, or its Python is missing or too old: making it anew"
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

# Two set-ups at once would each take the other's incomplete .venv for an interrupted one. Processes that a killed
# set-up left behind hold the lock too, until they end.
wait_for_others() {
  command -v flock >/dev/null || return 0
  exec 9<.ci/setup.sh
  flock -n 9 || { say "waiting for another set-up of this checkout"; flock 9; }
}

is_done && exit 0
wait_for_others
is_done && exit 0
started=$(date +%s)
[ -z "${SSL_CERT_FILE:-}" ] || export PIP_CERT="${PIP_CERT:-$SSL_CERT_FILE}" # pip reads only its own variable
if ! has_packages; then
  make_venv
  install_packages
  fingerprint >$stamp
  rm -f $unfinished
fi
has_java || install_java
has_redis || install_redis
[ -e $gomp_stamp ] || install_gomp
$venv/bin/python -m streaming.jars $home || exit 1
say "done in $(($(date +%s) - started)) s"
