#!/usr/bin/env bash
# Installs lars-agent from this source tree as a systemd service, or brings an installed one up to this tree.
#
#     sudo deploy/install.sh [--no-model] [--no-start]
#
#     /opt/lars-agent/venv             the programs, in a virtual environment of their own
#     /etc/lars-agent/config.toml      the settings; made once, never overwritten
#     /var/lib/lars-agent              database, models and adapters, of the system user lars-agent
#     /usr/local/bin/lars-agent        the command line
#
# Run twice it changes nothing the second time. It never touches what people said or what was learned from it.
set -euo pipefail
umask 022 # what is installed is for the service's user to read, whatever root's own habit

readonly SOURCE="$(cd "$(dirname "$0")/.." && pwd)"
readonly USER_NAME=lars-agent
readonly OPT=/opt/lars-agent CONFIG=/etc/lars-agent STATE=/var/lib/lars-agent UNIT=/etc/systemd/system/lars-agent.service
readonly NEEDED_MIB=2500
readonly ANSWER_S=180
PYTHON="${PYTHON:-python3}"
pull_model=yes start=yes changed=no

say() { printf '%s\n' "$*"; }
fail() { printf 'install.sh: %s\n' "$*" >&2; exit 1; }

main() {
  read_options "$@"
  check_machine
  make_user
  install_allocator
  install_programs
  install_settings
  install_unit
  make_token
  if [ "$pull_model" = yes ]; then install_model; fi
  if [ "$start" = yes ]; then start_service; fi
}

read_options() {
  for option in "$@"; do
    case "$option" in
      --no-model) pull_model=no ;;
      --no-start) start=no ;;
      -h | --help) sed -n '2,/^set /{/^set /d;s/^# \{0,1\}//;p}' "$0"; exit 0 ;;
      *) printf 'install.sh: unknown option %s; see install.sh --help\n' "$option" >&2; exit 2 ;;
    esac
  done
}

check_machine() {
  [ "$(id -u)" = 0 ] || fail "must be run as root: sudo $0"
  command -v systemctl >/dev/null || fail "this machine has no systemd; run the daemon with: make run"
  command -v "$PYTHON" >/dev/null || fail "there is no $PYTHON; install Python 3.11 or newer, or set PYTHON"
  "$PYTHON" -c 'import sys; sys.exit(sys.version_info < (3, 11))' ||
    fail "Python 3.11 or newer is needed, $PYTHON is $("$PYTHON" -V 2>&1); set PYTHON to a newer one"
  case "$("$PYTHON" -c 'import os, sys; print(os.path.realpath(sys.base_prefix))')/" in
    /home/* | /root/*) fail "$PYTHON lies in a home folder, which the service cannot see; install Python for all users" ;;
  esac
  "$PYTHON" -c 'import ensurepip, venv' 2>/dev/null || fail "$PYTHON has no venv module; on Debian: apt install python3-venv"
  mkdir -p "$OPT"
  local free
  free="$(df --output=avail -m "$OPT" | tail -n 1 | tr -d ' ')"
  [ -e "$OPT/installed" ] || [ "$free" -ge "$NEEDED_MIB" ] ||
    fail "$free MiB are free on the disk of $OPT, $NEEDED_MIB are needed"
}

make_user() {
  id "$USER_NAME" >/dev/null 2>&1 && return
  useradd --system --user-group --home-dir "$STATE" --no-create-home --shell /usr/sbin/nologin "$USER_NAME"
  say "made the system user $USER_NAME"
}

# Training takes a third less time with it, and no more memory; without it the worker makes do with the C library.
install_allocator() {
  if ldconfig -p | grep libjemalloc >/dev/null; then return; fi
  if command -v apt-get >/dev/null && apt-get install --quiet --yes --no-install-recommends libjemalloc2 >/dev/null 2>&1; then
    say "installed libjemalloc2, with which training is faster"
  else
    say "goes on without jemalloc, with which training would be faster; install it by hand if you can"
  fi
}

# The same for the same source, the same pins and the same Python: what is installed needs no installing.
fingerprint() {
  cd "$SOURCE"
  {
    "$PYTHON" -V
    find pyproject.toml constraints.txt README.md lars_agent service -type f ! -path '*/__pycache__/*' -print0 |
      LC_ALL=C sort -z | xargs -0 sha256sum
  } | sha256sum
}

install_programs() {
  local wanted
  wanted="$(fingerprint)"
  if [ -x "$OPT/venv/bin/lars-agent" ] && [ "$(cat "$OPT/installed" 2>/dev/null)" = "$wanted" ]; then
    say "the programs are up to date"
  else
    say "installing the programs into $OPT/venv (torch is large; this takes some minutes)"
    rm -f "$OPT/installed" # a half-done installation is done again
    "$PYTHON" -m venv "$OPT/venv"
    build="$(mktemp -d)" # pip builds where the source lies; the source tree stays as it is
    trap 'rm -rf "$build"' EXIT
    cp -r "$SOURCE"/{pyproject.toml,README.md,lars_agent,service} "$build"
    "$OPT/venv/bin/python" -m pip --disable-pip-version-check install --quiet --upgrade \
      --constraint "$SOURCE/constraints.txt" "$build"
    install -m 0644 "$SOURCE/README.md" "$OPT/README.md"
    printf '%s\n' "$wanted" >"$OPT/installed"
    changed=yes
  fi
  ln -sfn "$OPT/venv/bin/lars-agent" /usr/local/bin/lars-agent
}

install_settings() {
  install -d -m 0755 "$CONFIG"
  install -d -m 0700 -o "$USER_NAME" -g "$USER_NAME" "$STATE"
  if [ -e "$CONFIG/config.toml" ]; then
    say "$CONFIG/config.toml is kept as it is"
  else # the command line reads it too, so that it finds the same data as the service
    sed "s|^#data_dir = .*|data_dir = \"$STATE\"|" "$SOURCE/deploy/config.toml" >"$CONFIG/.config.toml.tmp"
    chmod 0644 "$CONFIG/.config.toml.tmp"
    mv "$CONFIG/.config.toml.tmp" "$CONFIG/config.toml"
    say "wrote $CONFIG/config.toml"
  fi
}

install_unit() {
  if ! cmp -s "$SOURCE/systemd/lars-agent.service" "$UNIT"; then
    install -m 0644 "$SOURCE/systemd/lars-agent.service" "$UNIT"
    changed=yes
    if is_booted; then systemctl daemon-reload; fi
    say "wrote $UNIT"
  fi
  systemctl enable --quiet lars-agent.service
}

is_booted() { [ -d /run/systemd/system ]; }

install_model() {
  as_service lars-agent model pull default
}

# The token of other devices. One that is there stays, and one in the settings takes its place.
make_token() {
  as_service lars-agent token --show >/dev/null 2>&1 || true
}

# As the service's user, in the service's folder and with its settings.
as_service() {
  (cd "$STATE" && exec setpriv --reuid "$USER_NAME" --regid "$USER_NAME" --clear-groups \
    env HOME="$STATE" PATH="$OPT/venv/bin:$PATH" "$@")
}

start_service() {
  if ! is_booted; then
    say "systemd does not run here; lars-agent starts at the next boot"
    return
  fi
  if [ "$changed" = yes ]; then systemctl restart lars-agent.service; else systemctl start lars-agent.service; fi
  for _ in $(seq "$ANSWER_S"); do
    if answers; then
      say "lars-agent runs. Talk to it: lars-agent chat. The dashboard: $(address)"
      say "To let a phone in: docs/other-devices.md, then: sudo lars-agent token"
      return
    fi
    systemctl is-failed --quiet lars-agent.service && break
    sleep 1
  done
  fail "the service does not answer; see: journalctl -u lars-agent"
}

# /health asks for no token.
answers() {
  "$OPT/venv/bin/python" -c 'import sys, urllib.request; urllib.request.urlopen(sys.argv[1] + "health")' "$(address)" \
    >/dev/null 2>&1
}

address() {
  "$OPT/venv/bin/python" -c 'from service.cli.client import default_url; print(default_url() + "/")'
}

main "$@"
