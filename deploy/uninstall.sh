#!/usr/bin/env bash
# Removes the service and its programs. What people said and what was learned from it stays, and so do the settings.
#
#     sudo deploy/uninstall.sh [--purge]
#     deploy/uninstall.sh --user [--purge]    what `install.sh --user` installed
#
# --purge removes those too, and the system user. There is no way back.
set -euo pipefail

readonly SERVICE=lars-agent.service
purge=no for_user=no
for option in "$@"; do
  case "$option" in
    --purge) purge=yes ;;
    --user) for_user=yes ;;
    -h | --help) sed -n '2,/^set /{/^set /d;s/^# \{0,1\}//;p}' "$0"; exit 0 ;;
    *) printf 'uninstall.sh: unknown option %s; see uninstall.sh --help\n' "$option" >&2; exit 2 ;;
  esac
done

if [ "$for_user" = yes ]; then
  OPT="$HOME/.local/lib/lars-agent" CONFIG="$HOME/.config/lars-agent"
  STATE="${XDG_DATA_HOME:-$HOME/.local/share}/lars-agent" BIN="$HOME/.local/bin/lars-agent"
  UNIT="${XDG_CONFIG_HOME:-$HOME/.config}/systemd/user/$SERVICE"
  export XDG_RUNTIME_DIR="${XDG_RUNTIME_DIR:-/run/user/$(id -u)}"
  ctl() { systemctl --user "$@"; }
else
  [ "$(id -u)" = 0 ] || { printf 'uninstall.sh: must be run as root: sudo %s; or --user\n' "$0" >&2; exit 1; }
  OPT=/opt/lars-agent CONFIG=/etc/lars-agent STATE=/var/lib/lars-agent BIN=/usr/local/bin/lars-agent
  UNIT="/etc/systemd/system/$SERVICE"
  ctl() { systemctl "$@"; }
fi

booted=no
if [ -d /run/systemd/system ] && { [ "$for_user" = no ] || ctl show-environment >/dev/null 2>&1; }; then booted=yes; fi
if [ -e "$UNIT" ]; then
  if [ "$booted" = yes ]; then ctl stop "$SERVICE"; fi
  if [ "$for_user" = no ] || [ "$booted" = yes ]; then ctl disable --quiet "$SERVICE"; fi
  rm -f "$UNIT"
  if [ "$booted" = yes ]; then ctl daemon-reload; fi
fi
case "$(readlink "$BIN" || true)" in "$OPT"/*) rm -f "$BIN" ;; esac
rm -rf "${OPT:?}" "${STATE:?}/update"
if [ "$purge" = yes ]; then
  rm -rf "${CONFIG:?}" "${STATE:?}"
  if [ "$for_user" = no ] && id lars-agent >/dev/null 2>&1; then userdel lars-agent; fi
  printf 'lars-agent is gone, with all that it knew\n'
else
  printf 'lars-agent is gone; %s and %s are left as they were\n' "$STATE" "$CONFIG"
fi
