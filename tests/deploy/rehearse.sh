#!/usr/bin/env bash
# The installation as a user would live it, in a small Debian with a real systemd: `make rehearse` (root, Debian, network).
#
# Installs twice, boots, talks to the service, kills it, adapts, removes it. Takes some minutes; not part of `make test`.
set -euo pipefail

readonly SOURCE="$(cd "$(dirname "$0")/../.." && pwd)"
readonly PACKAGES=systemd,systemd-sysv,dbus,python3,python3-venv,ca-certificates,curl,procps
# The folders that this machine's pip is told to look into, if any: the container's pip looks there too.
readonly PIP_FOLDERS="$(python3 -m pip config list | grep -o "file://[^' ]*\|='/[^']*'" |
  sed "s|^file://||; s|^='||; s|'\$||; s|/simple\$||" | sort -u | while read -r path; do [ ! -d "$path" ] || printf '%s ' "$path"; done)"
root="$(mktemp -d /var/tmp/lars-agent-rehearsal.XXXXXX)"
chmod 0755 "$root"
container=

cleanup() {
  if [ -n "$container" ]; then kill "$container" 2>/dev/null || true; wait "$container" 2>/dev/null || true; fi
  for folder in $PIP_FOLDERS /dev /proc; do umount --lazy --recursive "$root$folder" 2>/dev/null || true; done
  rm -rf --one-file-system "$root" "$root.log"
}
trap cleanup EXIT

step() { printf '\n== %s\n' "$*"; }
inside() { nsenter --target "$leader" --mount --uts --ipc --net --pid "$@"; }
answers() { for _ in $(seq 120); do inside curl --silent --fail localhost:8321/health >/dev/null && return; sleep 1; done; return 1; }
ask() { inside curl --silent --show-error --fail-with-body "localhost:8321$1" -H 'content-type: application/json' "${@:2}"; printf '\n'; }

step "a small Debian"
{ command -v debootstrap && command -v systemd-nspawn; } >/dev/null || apt-get install --yes debootstrap systemd-container >/dev/null
debootstrap --variant=minbase --include="$PACKAGES" bookworm "$root" >/dev/null
cp /etc/ssl/certs/ca-certificates.crt "$root/etc/ssl/certs/" && cp /etc/resolv.conf "$root/etc/"
python3 -m pip config list | sed -n "s/^global\.\([a-z-]*\)='\(.*\)'$/\1 = \2/p" | grep -v ^constraint |
  { echo '[global]'; cat; } >"$root/etc/pip.conf"
for folder in $PIP_FOLDERS; do mkdir -p "$root$folder" && mount --bind "$folder" "$root$folder"; done
mount -t proc proc "$root/proc" && mount --rbind /dev "$root/dev" && mount --make-rslave "$root/dev"
mkdir "$root/root/lars-agent"
(cd "$SOURCE" && git ls-files -z | xargs -0 cp --parents --target-directory "$root/root/lars-agent")

step "install.sh, twice"
chroot "$root" /root/lars-agent/deploy/install.sh
again="$(chroot "$root" /root/lars-agent/deploy/install.sh)"
printf '%s\n' "$again"
grep -q "the programs are up to date" <<<"$again"
umount "$root/proc" && umount --recursive "$root/dev"
for folder in $PIP_FOLDERS; do umount "$root$folder"; done

step "the service after a boot"
systemd-nspawn --directory "$root" --register=no --keep-unit --private-network --boot >"$root.log" 2>&1 &
container=$!
until leader="$(pgrep --parent "$container")" && inside systemctl is-system-running --wait >/dev/null 2>&1; do
  kill -0 "$container" && sleep 1
  if inside systemctl is-active --quiet multi-user.target 2>/dev/null; then break; fi
done
answers
inside lars-agent doctor
ask / >/dev/null
ask /generate -d '{"inputs": "What is my dog called?", "parameters": {"max_new_tokens": 12}}'
inside systemd-analyze security lars-agent | tail -n 1

step "its settings, read again while it runs"
inside sed -i 's/^#cron = .*/cron = "0 4 * * *"/' /etc/lars-agent/config.toml
inside systemctl reload lars-agent
for _ in $(seq 20); do ask /info | grep -q '"0 4 \* \* \*"' && break; sleep 1; done
ask /info | grep -q '"0 4 \* \* \*"'
inside systemctl show lars-agent --property StatusText,WatchdogUSec,NRestarts

step "an adaptation, under the unit's restrictions"
inside sed -i 's/^#steps = .*/steps = 2/; s/^#evaluate_every = .*/evaluate_every = 2/' /etc/lars-agent/config.toml
inside systemctl restart lars-agent && answers
for number in 1 2 3 4 5 6; do
  inside lars-agent feedback --prompt "What is number $number?" --response "?" --correction "It is $number$number."
done
inside lars-agent adapt --wait
inside lars-agent adapters

step "killed, and back by itself"
inside systemctl kill --signal KILL --kill-who main lars-agent
sleep 6
answers
inside lars-agent status | grep "default: v1"

step "removed: first without, then with its data"
inside /root/lars-agent/deploy/uninstall.sh
inside test -e /var/lib/lars-agent/lars-agent.db
inside /root/lars-agent/deploy/uninstall.sh --purge
! inside test -e /var/lib/lars-agent
! inside id lars-agent 2>/dev/null
step "all well"
