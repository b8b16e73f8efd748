#!/usr/bin/env bash
# Removes the service and its programs. What people said and what was learned from it stays, and so do the settings.
#
#     sudo deploy/uninstall.sh [--purge]
#
# --purge removes those too, and the system user. There is no way back.
set -euo pipefail

purge=no
case "${1:-}" in
  "") ;;
  --purge) purge=yes ;;
  -h | --help) sed -n '2,/^set /{/^set /d;s/^# \{0,1\}//;p}' "$0"; exit 0 ;;
  *) printf 'uninstall.sh: unknown option %s; see uninstall.sh --help\n' "$1" >&2; exit 2 ;;
esac
[ "$(id -u)" = 0 ] || { printf 'uninstall.sh: must be run as root: sudo %s\n' "$0" >&2; exit 1; }

if [ -e /etc/systemd/system/lars-agent.service ]; then
  if [ -d /run/systemd/system ]; then systemctl stop lars-agent.service; fi
  systemctl disable --quiet lars-agent.service
  rm -f /etc/systemd/system/lars-agent.service
  if [ -d /run/systemd/system ]; then systemctl daemon-reload; fi
fi
if [ "$(readlink /usr/local/bin/lars-agent)" = /opt/lars-agent/venv/bin/lars-agent ]; then rm -f /usr/local/bin/lars-agent; fi
rm -rf /opt/lars-agent
if [ "$purge" = yes ]; then
  rm -rf /etc/lars-agent /var/lib/lars-agent
  if id lars-agent >/dev/null 2>&1; then userdel lars-agent; fi
  printf 'lars-agent is gone, with all that it knew\n'
else
  printf 'lars-agent is gone; /var/lib/lars-agent and /etc/lars-agent are left as they were\n'
fi
