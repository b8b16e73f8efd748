#!/usr/bin/env bash
# The installation as a user would live it, in a small Debian with a real systemd: `make rehearse` (root, Debian, network).
#
# Installs twice, boots, talks to the service, kills it, adapts, boots again; updates it, with versions that fail in two
# ways and an update that is cut off; loses the disk and restores a backup; installs a Debian package and removes it; and
# installs for one user. The container has no network: what comes after the first installation comes from a bundle.
# Some ten minutes; not part of `make test`. KEEP=1 leaves the container's folder for a look; DEBIAN names a folder that
# debootstrap made earlier.
set -euo pipefail

SOURCE="$(cd "$(dirname "$0")/../.." && pwd)"
readonly PACKAGES=systemd,systemd-sysv,libpam-systemd,dbus,python3,python3-venv,ca-certificates,curl,procps
readonly MAX_EXPOSURE=1.5 STATE=/var/lib/lars-agent
# The folders that this machine's pip is told to look into, if any: the container's pip looks there too.
PIP_FOLDERS="$(python3 -m pip config list | grep -o "file://[^' ]*\|='/[^']*'" |
  sed "s|^file://||; s|^='||; s|'\$||; s|/simple\$||" | sort -u | while read -r path; do [ ! -d "$path" ] || printf '%s ' "$path"; done)"
root="$(mktemp -d /var/tmp/lars-agent-rehearsal.XXXXXX)"
chmod 0755 "$root"
container='' leader=''

cleanup() {
  halt
  for folder in $PIP_FOLDERS /dev /proc; do umount --lazy --recursive "$root$folder" 2>/dev/null || true; done
  if [ -n "${KEEP:-}" ]; then echo "the container is in $root"; else rm -rf --one-file-system "$root" "$root.log"; fi
}
trap cleanup EXIT

step() { printf '\n== %s  (%d s)\n' "$*" "$SECONDS"; }
inside() { nsenter --target "$leader" --mount --uts --ipc --net --pid "$@"; }
answers() { for _ in $(seq 300); do inside curl --silent --fail localhost:8321/health >/dev/null && return; sleep 1; done; return 1; }
ask() { inside curl --silent --show-error --fail-with-body "localhost:8321$1" -H 'content-type: application/json' "${@:2}" && printf '\n'; }
says() { tee --append /dev/stderr | grep -- "$1" >/dev/null; } # reads to the end: who writes must not die of a closed pipe
absent() { inside sh -c "! ls -d $* 2>/dev/null | grep ."; } # `! command` alone ends nothing
main_pid() { inside systemctl show --value --property MainPID lars-agent; }
version_in_use() { inside readlink /opt/lars-agent/current; }
# Three replies, greedy, token for token, and all feedback.
memory() {
  for words in "What is number 3?" "What is my dog called?" "Hello"; do
    ask /generate -d "{\"inputs\": \"$words\", \"parameters\": {\"max_new_tokens\": 16, \"do_sample\": false, \"details\": true}}" |
      inside python3 -c 'import json, sys; told = json.load(sys.stdin); print([token["id"] for token in told["details"]["tokens"]], told["generated_text"])'
  done
  inside lars-agent export
}

boot() {
  systemd-nspawn --directory "$root" --register=no --keep-unit --private-network --boot >>"$root.log" 2>&1 &
  container=$!
  until leader="$(pgrep --parent "$container")" && inside systemctl is-system-running --wait >/dev/null 2>&1; do
    kill -0 "$container" && sleep 1
    if inside systemctl is-active --quiet multi-user.target 2>/dev/null; then break; fi
  done
}
halt() { # as if it were switched off, after systemd has had its say
  [ -n "$container" ] || return 0 # in a trap a bare return has the status from before it
  kill -RTMIN+4 "$leader" 2>/dev/null || true
  for _ in $(seq 60); do kill -0 "$container" 2>/dev/null || break; sleep 1; done
  kill "$container" 2>/dev/null || true
  wait "$container" 2>/dev/null || true
  container=''
}

step "a small Debian"
{ command -v debootstrap && command -v systemd-nspawn; } >/dev/null || apt-get install --yes debootstrap systemd-container >/dev/null
if [ -n "${DEBIAN:-}" ]; then cp -a "$DEBIAN/." "$root"; else debootstrap --variant=minbase --include="$PACKAGES" bookworm "$root" >/dev/null; fi
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

step "a bundle, and bundles of later versions: a good one and two broken ones"
chroot "$root" setpriv --reuid lars-agent --regid lars-agent --clear-groups env HOME="$STATE" lars-agent bundle "$STATE/bundle"
mv "$root$STATE/bundle" "$root/root/bundle"
number=0
(cd "$root/root" && for kind in good dead dead_as_service; do
  python3 "$SOURCE/tests/deploy/variant.py" bundle "$kind" "0.2.$((++number))" "$kind"
done)
umount "$root/proc" && umount --recursive "$root/dev"
for folder in $PIP_FOLDERS; do umount "$root$folder"; done

step "the service after a boot"
boot
answers
inside lars-agent doctor
ask / >/dev/null
ask /generate -d '{"inputs": "What is my dog called?", "parameters": {"max_new_tokens": 12}}'
exposure="$(inside systemd-analyze security lars-agent | sed -n 's/.*exposure level for lars-agent.service: \([0-9.]*\).*/\1/p')"
echo "exposure $exposure, at most $MAX_EXPOSURE"
awk "BEGIN { exit !($exposure <= $MAX_EXPOSURE) }"

step "its settings, read again while it runs"
inside sed -i 's/^#cron = .*/cron = "0 4 * * *"/' /etc/lars-agent/config.toml
inside systemctl reload lars-agent
for _ in $(seq 20); do ask /info | grep -q '"0 4 \* \* \*"' && break; sleep 1; done
ask /info | grep -q '"0 4 \* \* \*"'
inside systemctl show lars-agent --property StatusText,WatchdogUSec,NRestarts

step "an adaptation, under the unit's restrictions"
inside sed -i 's/^#steps = .*/steps = 2/; s/^#evaluate_every = .*/evaluate_every = 2/
  s/^#max_cpu = .*/max_cpu = 1.0/; s/^#max_load = .*/max_load = 100.0/' /etc/lars-agent/config.toml # the machine around it may be busy
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
inside lars-agent status | says "default: v1"

step "still there after a boot"
memory >"$root.before"
halt && boot && answers
inside lars-agent status | says "default: v1"
memory | diff "$root.before" -

step "an update that does not run: the one in use is never stopped, and its data not touched"
pid="$(main_pid)" old="$(version_in_use)"
if inside /root/dead/deploy/install.sh 2>"$root.errors"; then false; fi
says "this version is broken" <"$root.errors"
says "so $old goes on" <"$root.errors"
[ "$(main_pid)" = "$pid" ] && [ "$(version_in_use)" = "$old" ]
memory | diff "$root.before" -
absent "$STATE/update/trial /opt/lars-agent/0.2.2*"

step "an update that runs when it is tried and not as a service: rolled back, with its change of the database undone"
if inside /root/dead_as_service/deploy/install.sh >"$root.output" 2>"$root.errors"; then false; fi
says "the database has its earlier schema again" <"$root.output"
says "$old runs again" <"$root.errors"
[ "$(version_in_use)" = "$old" ] && [ "$(main_pid)" != "$pid" ]
memory | diff "$root.before" -
absent "$STATE/update /opt/lars-agent/0.2.3* $STATE/lars-agent.db.*"

step "an update that is cut off, then a boot: the next run goes on"
inside /root/good/deploy/install.sh >"$root.output" 2>&1 &
installer=$!
until grep -q "takes over" "$root.output" || ! kill -0 $installer; do sleep 0.2; done
kill -KILL $installer && wait $installer || true
inside pkill -KILL -f deploy/install.sh || true
halt && boot && answers
inside /root/good/deploy/install.sh | says "lars-agent runs"
absent /opt/lars-agent/updating
case "$(version_in_use)" in 0.2.1-*) ;; *) false ;; esac
memory | diff "$root.before" -
inside lars-agent doctor
inside /root/good/deploy/install.sh | says "the programs are up to date"
[ "$(inside sh -c 'ls -d /opt/lars-agent/*/complete' | sort -u | wc -l)" -le 4 ] # two, each also by its link

step "a backup, the disk wiped, the backup restored: the same replies, token for token"
inside mkdir -m 0700 /mnt/stick
inside lars-agent backup --to /mnt/stick
inside cp -r "$STATE/models" /mnt/stick/models
inside systemctl stop lars-agent
inside sh -c "rm -rf $STATE/* $STATE/.[!.]*"
inside sh -c "cp -r /mnt/stick/models $STATE/models && chown -R lars-agent:lars-agent $STATE"
inside sh -c 'lars-agent restore /mnt/stick/lars-agent-*.tar'
inside systemctl start lars-agent && answers
memory | diff "$root.before" -

step "a Debian package takes over, is removed, and purged with the data"
inside /root/good/deploy/make_deb.sh /root/good /root
inside sh -c "dpkg --install /root/lars-agent_*.deb"
answers
memory | diff "$root.before" -
inside dpkg --remove lars-agent
inside test -e "$STATE/lars-agent.db"
absent /opt/lars-agent /usr/local/bin/lars-agent
inside dpkg --purge lars-agent
absent "$STATE" /etc/lars-agent /etc/systemd/system/lars-agent.service
if inside id lars-agent 2>/dev/null; then false; fi

step "removed by the script: first without, then with its data"
inside /root/bundle/deploy/install.sh --no-start
inside /root/bundle/deploy/uninstall.sh
inside test -e "$STATE/models"
inside /root/bundle/deploy/uninstall.sh --purge
absent "$STATE" /etc/lars-agent
if inside id lars-agent 2>/dev/null; then false; fi

step "for one user, without root"
inside useradd --create-home someone
inside mv /root/bundle /home/someone/bundle
inside loginctl enable-linger someone
as_someone() { inside setpriv --reuid someone --regid someone --init-groups env HOME=/home/someone XDG_RUNTIME_DIR="/run/user/$(inside id -u someone)" "$@"; }
until as_someone systemctl --user show-environment >/dev/null 2>&1; do sleep 1; done
as_someone /home/someone/bundle/deploy/install.sh --user
answers
as_someone /home/someone/.local/bin/lars-agent doctor
as_someone /home/someone/bundle/deploy/install.sh --user | says "the programs are up to date"
as_someone /home/someone/bundle/deploy/uninstall.sh --user --purge
inside sh -c '! find /home/someone -path "*/bundle" -prune -o -iname "*lars-agent*" -print | grep .'
step "all well"
