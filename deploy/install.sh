#!/usr/bin/env bash
# Installs lars-agent as a systemd service, or updates an installed one. A new version is installed beside the one that
# runs and has to answer before it takes over; if it does not, the old one goes on, and the reason is printed.
#
#     sudo deploy/install.sh [--from BUNDLE] [--no-model] [--no-start]
#     deploy/install.sh --user [--from BUNDLE] [--no-model] [--no-start]
#
#     --from BUNDLE   install what `lars-agent bundle` made, a folder or a .tar, without a network
#     --user          for yourself alone, without root
#
#     for the machine             with --user
#     /opt/lars-agent             ~/.local/lib/lars-agent      programs; `current` is the version in use
#     /etc/lars-agent             ~/.config/lars-agent         config.toml; made once, never overwritten
#     /var/lib/lars-agent         ~/.local/share/lars-agent    database, models and adapters
#     /usr/local/bin/lars-agent   ~/.local/bin/lars-agent      the command line
#
# Run twice it changes nothing the second time; cut off at any moment, the next run goes on. It never touches what people
# said or what was learned from it. TORCH_INDEX: see deploy/torch_wheels.py.
set -euo pipefail
umask 022 # what is installed is for the service's user to read, whatever root's own habit

SOURCE="$(cd "$(dirname "$0")/.." && pwd)"
readonly USER_NAME=lars-agent SERVICE=lars-agent.service TRIAL=lars-agent-trial.service
readonly NEEDED_MIB=2500 UPDATE_MIB=500 # an update shares most files with the version before
readonly ANSWER_S="${ANSWER_S:-300}"
PYTHON="${PYTHON:-python3}"
bundle='' for_user=no pull_model=yes start=yes scratch=''

say() { printf '%s\n' "$*"; }
fail() { printf 'install.sh: %s\n' "$*" >&2; exit 1; }

main() {
  read_options "$@"
  choose_places
  check_machine
  exec 9>"$OPT/.lock"
  flock --nonblock 9 || fail "another install.sh is at work"
  trap clean_up EXIT
  open_bundle
  make_user
  install_allocator
  finish_update
  install_programs
  install_settings
  make_token
  if [ "$pull_model" = yes ]; then install_model; fi
  if [ "$(in_use)" = "$wanted" ]; then
    install_unit
    start_service || fail "the service does not answer; see: journalctl $(of_user)-u lars-agent"
  elif [ -n "$(in_use)" ] && is_booted && [ "$start" = yes ]; then
    update
  else
    if [ -n "$(in_use)" ]; then ln -sfn "$(in_use)" "$OPT/previous"; fi
    switch_to "$wanted"
    start_service || fail "the service does not answer; see: journalctl $(of_user)-u lars-agent"
  fi
  remove_old
}

read_options() {
  while [ $# -gt 0 ]; do
    case "$1" in
      --from) [ $# -gt 1 ] || { printf 'install.sh: --from needs a bundle\n' >&2; exit 2; }; bundle="$2"; shift ;;
      --user) for_user=yes ;;
      --no-model) pull_model=no ;;
      --no-start) start=no ;;
      -h | --help) sed -n '2,/^set /{/^set /d;s/^# \{0,1\}//;p}' "$0"; exit 0 ;;
      *) printf 'install.sh: unknown option %s; see install.sh --help\n' "$1" >&2; exit 2 ;;
    esac
    shift
  done
}

choose_places() {
  if [ "$for_user" = yes ]; then
    OPT="$HOME/.local/lib/lars-agent" CONFIG="$HOME/.config/lars-agent"
    STATE="${XDG_DATA_HOME:-$HOME/.local/share}/lars-agent" BIN="$HOME/.local/bin"
    UNIT="${XDG_CONFIG_HOME:-$HOME/.config}/systemd/user/$SERVICE" UNIT_SOURCE=systemd/lars-agent-user.service
    RUN="${XDG_RUNTIME_DIR:-/run/user/$(id -u)}/systemd/user"
    export XDG_RUNTIME_DIR="${XDG_RUNTIME_DIR:-/run/user/$(id -u)}"
  else
    OPT=/opt/lars-agent CONFIG=/etc/lars-agent STATE=/var/lib/lars-agent BIN=/usr/local/bin
    UNIT="/etc/systemd/system/$SERVICE" UNIT_SOURCE=systemd/lars-agent.service RUN=/run/systemd/system
  fi
}

of_user() { if [ "$for_user" = yes ]; then printf -- '--user '; fi; }
# shellcheck disable=SC2046  # one word, or none
ctl() { systemctl $(of_user) "$@"; }
is_booted() { [ -d /run/systemd/system ] && { [ "$for_user" = no ] || systemctl --user show-environment >/dev/null 2>&1; }; }

check_machine() {
  if [ "$for_user" = yes ]; then
    [ "$(id -u)" != 0 ] || fail "--user is for somebody else than root; without it the whole machine gets the service"
    [ ! -e "/etc/systemd/system/$SERVICE" ] || fail "lars-agent is installed for the whole machine already"
  else
    [ "$(id -u)" = 0 ] || fail "must be run as root: sudo $0; or for yourself alone: $0 --user"
  fi
  command -v systemctl >/dev/null || fail "this machine has no systemd; run the daemon with: make run"
  command -v "$PYTHON" >/dev/null || fail "there is no $PYTHON; install Python 3.11 or newer, or set PYTHON"
  "$PYTHON" -c 'import sys; sys.exit(sys.version_info < (3, 11))' ||
    fail "Python 3.11 or newer is needed, $PYTHON is $("$PYTHON" -V 2>&1); set PYTHON to a newer one"
  case "$for_user $("$PYTHON" -c 'import os, sys; print(os.path.realpath(sys.base_prefix))')/" in
    "no /home/"* | "no /root/"*) fail "$PYTHON lies in a home folder, which the service cannot see; install Python for all users" ;;
  esac
  "$PYTHON" -c 'import ensurepip, venv' 2>/dev/null || fail "$PYTHON has no venv module; on Debian: apt install python3-venv"
  mkdir -p "$OPT"
  local free needed="$NEEDED_MIB"
  if [ -n "$(in_use)" ]; then needed="$UPDATE_MIB"; fi
  free="$(df --output=avail -m "$OPT" | tail -n 1 | tr -d ' ')"
  [ "$free" -ge "$needed" ] || fail "$free MiB are free on the disk of $OPT, $needed are needed"
}

# The version in use, as a folder of $OPT; nothing before the first installation. `venv`: of an earlier install.sh.
in_use() {
  if [ -L "$OPT/current" ]; then readlink "$OPT/current"; elif [ -x "$OPT/venv/bin/lars-agent" ]; then printf venv; fi
}

clean_up() {
  if is_booted; then ctl stop "$TRIAL" 2>/dev/null || true; fi
  rm -rf "${RUN:?}/$TRIAL" "$RUN/$TRIAL.env" "$STATE/update/trial" "$OPT"/.bundle.* ${scratch:+"$scratch"}
  if [ ! -e "$OPT/updating" ]; then rm -rf "$STATE/update"; fi
}

open_bundle() {
  if [ -z "$bundle" ]; then
    [ -e "$SOURCE/SHA256SUMS" ] || return 0
    bundle="$SOURCE" # this script is part of it
  fi
  [ -e "$bundle" ] || fail "there is no bundle $bundle"
  if [ -d "$bundle" ]; then
    SOURCE="$(cd "$bundle" && pwd)"
  else
    scratch="$(mktemp -d "$OPT/.bundle.XXXXXX")"
    tar --extract --no-same-owner --file "$bundle" --directory "$scratch" || fail "$bundle cannot be unpacked"
    SOURCE="$scratch"
  fi
  [ -e "$SOURCE/SHA256SUMS" ] || fail "$bundle is no bundle: it has no SHA256SUMS; make one with: lars-agent bundle"
  (cd "$SOURCE" && sha256sum --check --quiet --strict SHA256SUMS) || fail "$bundle is damaged; copy it again"
  local made_for here
  made_for="$(cat "$SOURCE/platform")"
  here="$("$PYTHON" -c 'import platform; print("Python", ".".join(platform.python_version_tuple()[:2]), platform.machine())')"
  [ "$made_for" = "$here" ] || fail "$bundle is for $made_for, this machine has $here; make it on a machine like this one"
}

make_user() {
  if [ "$for_user" = yes ] || id "$USER_NAME" >/dev/null 2>&1; then return; fi
  useradd --system --user-group --home-dir "$STATE" --no-create-home --shell /usr/sbin/nologin "$USER_NAME"
  say "made the system user $USER_NAME"
}

# Training takes a third less time with it, and no more memory; without it the worker makes do with the C library.
install_allocator() {
  if PATH="$PATH:/sbin:/usr/sbin" ldconfig -p | grep libjemalloc >/dev/null; then return; fi
  if [ "$for_user" = no ] && [ -z "$bundle" ] && command -v apt-get >/dev/null &&
    apt-get install --quiet --yes --no-install-recommends libjemalloc2 >/dev/null 2>&1; then
    say "installed libjemalloc2, with which training is faster"
  else
    say "goes on without jemalloc, with which training would be faster; on Debian: apt install libjemalloc2"
  fi
}

# The same for the same source, the same pins and the same Python: what is installed needs no installing.
fingerprint() {
  cd "$SOURCE"
  {
    "$PYTHON" -V
    if [ -n "$bundle" ]; then sha256sum <SHA256SUMS; else
      find pyproject.toml constraints.txt README.md lars_agent service deploy systemd -type f ! -path '*/__pycache__/*' -print0 |
        LC_ALL=C sort -z | xargs -0 sha256sum
    fi
  } | sha256sum | cut -c -12
}

version() {
  if [ -n "$bundle" ]; then
    find "$SOURCE/wheels" -name 'lars_agent-*.whl' -printf '%f\n' | cut -d - -f 2
  else
    sed -n 's/^version = "\(.*\)"$/\1/p' "$SOURCE/pyproject.toml"
  fi
}

# Everything is on the disk before the file `complete` is: what lacks it was cut off, and is made anew.
install_programs() {
  wanted="$(version)-$(fingerprint)"
  if [ -e "$OPT/$wanted/complete" ]; then
    say "the programs are up to date"
    return
  fi
  say "installing lars-agent $(version) into $OPT/$wanted (torch is large; the first time this takes some minutes)"
  rm -rf "${OPT:?}/$wanted"
  share_files "$OPT/$wanted"
  local pip=("$OPT/$wanted/bin/python" -m pip --disable-pip-version-check install --quiet --upgrade --constraint "$SOURCE/constraints.txt")
  if [ -n "$bundle" ]; then
    "${pip[@]}" --no-index --find-links "$SOURCE/wheels" "$SOURCE"/wheels/lars_agent-*.whl
  else
    "$OPT/$wanted/bin/python" "$SOURCE/deploy/torch_wheels.py" "$SOURCE/constraints.txt"
    scratch="$(mktemp -d)" # pip builds where the source lies; the source tree stays as it is
    cp -r "$SOURCE"/{pyproject.toml,README.md,lars_agent,service,deploy,systemd} "$scratch"
    "${pip[@]}" "$scratch"
  fi
  install -m 0644 "$SOURCE/$UNIT_SOURCE" "$OPT/$wanted/$SERVICE"
  install -m 0644 "$SOURCE/README.md" "$OPT/README.md"
  sync --file-system "$OPT"
  touch "$OPT/$wanted/complete" && sync --file-system "$OPT"
}

# A virtual environment at $1. It begins as hard links to the packages of the version in use, if that has the same Python:
# pip replaces files and writes into none, so that what has not changed takes neither time nor room.
share_files() {
  local from packages
  from="$OPT/$(in_use)"
  packages="$("$PYTHON" -c 'import sys; print("lib/python{}.{}/site-packages".format(*sys.version_info))')"
  if [ -n "$(in_use)" ] && [ -d "$from/$packages" ]; then
    mkdir -p "$1/${packages%/*}"
    if cp -al "$from/$packages" "$1/$packages" 2>/dev/null; then
      "$PYTHON" -m venv --without-pip "$1"
      "$1/bin/python" -m pip --disable-pip-version-check uninstall --quiet --yes lars-agent
      return
    fi
    rm -rf "$1"
  fi
  "$PYTHON" -m venv "$1"
}

install_settings() {
  install -d -m 0755 "$CONFIG"
  if [ "$for_user" = yes ]; then install -d -m 0700 "$STATE"; else install -d -m 0700 -o "$USER_NAME" -g "$USER_NAME" "$STATE"; fi
  if [ -e "$CONFIG/config.toml" ]; then
    say "$CONFIG/config.toml is kept as it is"
  else # the command line reads it too, so that it finds the same data as the service
    sed "s|^#data_dir = .*|data_dir = \"$STATE\"|" "$SOURCE/deploy/config.toml" >"$CONFIG/.config.toml.tmp"
    chmod 0644 "$CONFIG/.config.toml.tmp"
    mv "$CONFIG/.config.toml.tmp" "$CONFIG/config.toml"
    say "wrote $CONFIG/config.toml"
  fi
}

has_model() { as_service bash -c "compgen -G '$STATE/models/*/model.json'" >/dev/null; }

install_model() {
  if has_model; then return; fi
  if [ -n "$bundle" ] && [ -d "$SOURCE/models" ]; then
    (cd "$SOURCE/models" && tar --create .) | as_service bash -c "mkdir -p '$STATE/.models.new' &&
      tar --extract --no-same-owner --directory '$STATE/.models.new' && sync && mkdir -p '$STATE/models' && cd '$STATE/.models.new' &&
      { [ ! -e current ] || mv current ../models; } && mv ./*/ ../models && rmdir '$STATE/.models.new'" # models last: has_model
    say "installed the base model of the bundle"
  else
    as_service lars-agent model pull default
  fi
}

# The token of other devices. One that is there stays, and one in the settings takes its place.
make_token() {
  as_service lars-agent token --show >/dev/null 2>&1 || true
}

# As the service's user, in the service's folder and with its settings.
as_service() {
  local become=(setpriv --reuid "$USER_NAME" --regid "$USER_NAME" --clear-groups env HOME="$STATE")
  if [ "$for_user" = yes ]; then become=(env); fi
  (cd "$STATE" && umask 077 && exec "${become[@]}" PATH="$OPT/${wanted:-current}/bin:$PATH" "$@")
}

# deploy/update_checks.py, on its standard input: the checkout may lie where the service's user may not look.
check() { as_service "$PYTHON" - "$@" <"$SOURCE/deploy/update_checks.py"; }

# --- the update of a service that is in use

update() {
  local token port
  say "the new version is tried with a copy of your data; $(in_use) goes on meanwhile"
  back_up
  check prepare "$STATE" || fail "nothing was changed: your data could not be copied for the trial"
  token="$("$PYTHON" -c 'import secrets; print(secrets.token_hex(16))')"
  port="$("$PYTHON" -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')"
  start_trial "$token" "$port"
  export TOKEN="$token"
  if ! wait_for "$TRIAL" "http://127.0.0.1:$port" "$(if has_model; then printf reply; fi)"; then
    show_log "$TRIAL"
    clean_up
    rm -rf "${OPT:?}/$wanted"
    fail "lars-agent $(version) does not work here, so $(in_use) goes on; your data is as it was"
  fi
  unset TOKEN
  clean_up
  say "it answers; it takes over"
  take_over
}

back_up() {
  if as_service "$OPT/$(in_use)/bin/lars-agent" backup --help >/dev/null 2>&1; then
    as_service mkdir -p "$STATE/update-backups" # the daemon keeps the newest ones
    as_service "$OPT/$(in_use)/bin/lars-agent" backup --to "$STATE/update-backups" || fail "nothing was changed: the backup failed"
  fi
}

# The unit of the new version, with the copy for its data, on a port and with a token that nobody knows.
start_trial() {
  mkdir -p "$RUN"
  (umask 077 && printf '%s\n' "LARS_AGENT_DATA_DIR=$STATE/update/trial" "LARS_AGENT_SERVER__HOST=127.0.0.1" \
    "LARS_AGENT_SERVER__PORT=$2" "LARS_AGENT_SERVER__TOKEN=$1" LARS_AGENT_SCHEDULE__ENABLED=false >"$RUN/$TRIAL.env")
  sed -e "s|^ExecStart=.*|ExecStart=$OPT/$wanted/bin/lars-agent serve|" -e '/^Restart=/d' -e '/^\[Install\]/,$d' \
    -e "s|^EnvironmentFile=.*|&\nEnvironmentFile=$RUN/$TRIAL.env|" "$OPT/$wanted/$SERVICE" >"$RUN/$TRIAL"
  ctl daemon-reload
  if ! fits_beside; then
    say "memory is short: the service stops for the trial"
    ctl stop "$SERVICE"
    trap 'clean_up; ctl start "$SERVICE"' EXIT
  fi
  ctl start --no-block "$TRIAL"
}

# Whether another daemon as large as the one that runs fits into memory.
fits_beside() {
  local used
  used="$(ctl show --value --property MemoryCurrent "$SERVICE")"
  case "$used" in '' | *[!0-9]*) return 0 ;; esac
  awk -v used="$used" '/^MemAvailable:/ { exit !($2 * 1024 > 1.2 * used) }' /proc/meminfo
}

# From here on the file `updating` names the version before; whatever cuts this off, the next run goes on in finish_update.
take_over() {
  local before
  before="$(in_use)"
  trap 'clean_up; ctl start "$SERVICE"' EXIT
  ctl stop "$SERVICE" # so that nothing comes after the copy
  check copy "$STATE/lars-agent.db" "$STATE/update/before.db" || fail "nothing was changed: the database could not be copied"
  if [ ! -e "$OPT/$before/$SERVICE" ]; then cp "$UNIT" "$OPT/$before/$SERVICE"; fi
  printf '%s\n' "$before" >"$OPT/.updating" && sync && mv "$OPT/.updating" "$OPT/updating" && sync --file-system "$OPT"
  switch_to "$wanted"
  settle
}

finish_update() {
  [ -e "$OPT/updating" ] || return 0
  say "goes on with an update that was cut off"
  wanted="$(in_use)"
  if [ "$wanted" = "$(cat "$OPT/updating")" ]; then
    rm -f "$OPT/updating"
  elif is_booted && [ "$start" = yes ]; then
    switch_to "$wanted"
    settle
  fi
}

# The version in use answers, or the one before is in use again.
settle() {
  local before
  before="$(cat "$OPT/updating")"
  if start_service; then
    ln -sfn "$before" "$OPT/previous"
    trap clean_up EXIT
    rm -rf "$OPT/updating" "$STATE/update"
    return
  fi
  show_log "$SERVICE"
  ctl stop "$SERVICE"
  check restore "$STATE"
  switch_to "$before"
  trap clean_up EXIT
  local failed="$wanted"
  wanted="$before"
  if start_service; then
    rm -rf "$OPT/updating" "$STATE/update" "${OPT:?}/$failed"
    fail "lars-agent $failed does not answer as a service; $before runs again"
  fi
  fail "neither $failed nor $before answers; see: journalctl $(of_user)-u lars-agent"
}

switch_to() {
  ln -sfn "$1" "$OPT/.current" && mv -T "$OPT/.current" "$OPT/current" && sync --file-system "$OPT"
  mkdir -p "$BIN"
  ln -sfn "$OPT/current/bin/lars-agent" "$BIN/lars-agent"
  install_unit
}

install_unit() {
  local from="$OPT/current/$SERVICE"
  if ! cmp -s "$from" "$UNIT"; then
    mkdir -p "$(dirname "$UNIT")"
    install -m 0644 "$from" "$UNIT.new" && mv "$UNIT.new" "$UNIT"
    if is_booted; then ctl daemon-reload; fi
    say "wrote $UNIT"
  fi
  if [ "$for_user" = no ] || is_booted; then ctl enable --quiet "$SERVICE"; fi
}

start_service() {
  if [ "$start" = no ]; then return; fi
  if ! is_booted; then
    say "systemd does not run here; lars-agent starts at the next boot"
    return
  fi
  ctl reset-failed "$SERVICE" 2>/dev/null || true # also of the starts that systemd has counted against its limit
  ctl start --no-block "$SERVICE"
  wait_for "$SERVICE" "$(address)" || return 1
  say "lars-agent runs. Talk to it: lars-agent chat. The dashboard: $(address)/"
  say "To let a phone in: docs/other-devices.md, then: lars-agent token"
  if [ "$for_user" = yes ] && [ "$(loginctl show-user "$(id -un)" --value --property Linger 2>/dev/null)" != yes ]; then
    say "It runs while you are logged in; so that it always does: loginctl enable-linger"
  fi
}

# Until the unit $1 answers at $2, with `reply` as $3 also with a reply; false if it gives up, or takes too long.
wait_for() {
  for _ in $(seq "$ANSWER_S"); do
    if check answers "${@:2}" 2>/dev/null; then return; fi
    if ctl is-failed --quiet "$1" || [ "$(ctl show --value --property NRestarts "$1")" -gt 1 ]; then return 1; fi
    sleep 1
  done
  return 1
}

# shellcheck disable=SC2046
show_log() {
  printf 'the last lines of its log:\n' >&2
  journalctl $(of_user)--unit "$1" --output cat --no-pager --lines 15 2>/dev/null | sed 's/^/    /' >&2 || true
}

address() {
  as_service python -c 'from service.settings.load import load_settings as load
from service.settings.server import url_of
print(url_of(load().server.host, load().server.port))'
}

# All versions but the one in use and the one before it.
remove_old() {
  local path
  for path in "$OPT"/*/; do
    case "$(basename "$path")" in
      current | previous | "$(in_use)" | "$(readlink "$OPT/previous")") ;;
      *) rm -rf "$path" ;;
    esac
  done
  rm -f "$OPT/installed" # of an earlier install.sh
}

main "$@"
