#!/usr/bin/env bash
# The worker's memory limit under a real kernel and the unit's own settings: `make rehearse-limit` (root, Debian, network).
#
# A small Debian boots in a virtual machine (no KVM asked for). There systemd runs the unit, with `limited.py` for the
# daemon: a worker that stays below its budget ends well; one that does not is killed at its limit, while the daemon goes
# on answering; a daemon that was killed has its cgroup again. Without delegation, or with a kernel whose memory
# controller is off, nothing is killed and the reason is said. Some minutes.
set -euo pipefail

readonly SOURCE="$(cd "$(dirname "$0")/../.." && pwd)"
readonly UNIT=lars-agent.service BASE=/sys/fs/cgroup/system.slice/lars-agent.service
readonly BELOW=64 BEYOND=400 # MiB; the budget lies between

step() { printf '\n== %s\n' "$*"; }
ask() { python3 -c 'import sys, urllib.request as u; print(u.urlopen("http://127.0.0.1:8321/" + sys.argv[1]).read().decode())' "$1"; }
answers() { for _ in $(seq 60); do ask "" 2>/dev/null && return; sleep 1; done; return 1; }
shows() { tee /dev/stderr | grep -q -- "$1"; }
main_pid() { systemctl show --value --property MainPID "$UNIT"; }

# A drop-in with these lines, and the service started anew.
with_settings() {
  mkdir -p "/run/systemd/system/$UNIT.d"
  printf '%s\n' '[Service]' "$@" >"/run/systemd/system/$UNIT.d/rehearsal.conf"
  systemctl daemon-reload && systemctl restart "$UNIT"
}

# Inside the virtual machine, with the memory controller as the kernel has it by default, and with it off.
check() { if grep -q cgroup_disable=memory /proc/cmdline; then check_without; else check_with; fi; step "all well"; }

check_without() {
  step "without a memory controller the worker has only its guard, and the reason says what to do"
  answers | shows 'cgroup_enable=memory'
  ask "run/$BEYOND/0" | shows '"exit_status": 0'
}

check_with() {
  step "the daemon has a cgroup: $(uname -r), $(systemctl --version | head -n 1)"
  answers | shows '"limit": "cgroup"'
  pid="$(main_pid)"
  cat "$BASE/cgroup.subtree_control"
  grep -qx "$pid" "$BASE/main/cgroup.procs"

  step "a worker of $BELOW MiB ends well"
  ask "run/$BELOW/0" | shows '"exit_status": 0'

  step "a worker of $BEYOND MiB is killed at its limit; the daemon answers and is the same"
  ask "run/$BEYOND/0" | shows 'killed at its memory limit'
  answers | shows "\"pid\": $pid,"
  systemctl show --property NRestarts "$UNIT" | shows NRestarts=0
  test ! -e "$BASE/train"

  step "a daemon that is killed while its worker runs comes back, and so does the limit"
  ask "run/$BELOW/600" >/dev/null 2>&1 &
  until grep -q . "$BASE/train/cgroup.procs" 2>/dev/null; do sleep 0.2; done
  systemctl kill --signal KILL --kill-who main "$UNIT"
  until [ "$(main_pid)" != "$pid" ] && [ "$(main_pid)" != 0 ]; do sleep 0.2; done
  answers | shows '"limit": "cgroup"'
  test ! -e "$BASE/train"
  ask "run/$BEYOND/0" | shows 'killed at its memory limit'

  step "without systemd's mark (as before version 251) the owner of the cgroup tells"
  with_settings "ExecStartPre=+/usr/bin/python3 -c 'import os; os.removexattr(\"$BASE\", \"user.delegate\")'"
  answers | shows '"limit": "cgroup"'
  python3 -c "import os; print(os.listxattr('$BASE'))" | shows "^\['trusted.delegate'"

  step "without delegation, or with a tree that is read-only, the worker has only its guard"
  with_settings Delegate=no
  answers | shows 'no cgroup was delegated'
  ask "run/$BEYOND/0" | shows '"exit_status": 0'
  with_settings ProtectControlGroups=yes
  answers | shows 'ProtectControlGroups=no'
}

case "${1:-}" in
  --check) check; exit ;;
  --inside)
    "$0" --check || { step "it failed"; journalctl --no-pager --unit "$UNIT" --lines 40; }
    exec systemctl poweroff --force
    ;;
esac

hash debootstrap qemu-system-x86_64 cpio 2>/dev/null ||
  apt-get install --yes --no-install-recommends debootstrap qemu-system-x86 cpio >/dev/null
work="$(mktemp -d /var/tmp/lars-agent-vm.XXXXXX)"
trap 'rm -rf --one-file-system "$work"' EXIT
root="$work/root"

step "a small Debian and a kernel"
debootstrap --variant=minbase --include=systemd,systemd-sysv,python3,python3-psutil,python3-structlog bookworm "$root" >/dev/null
rm -rf "$root"/var/cache/apt/archives/*.deb "$root"/var/lib/apt/lists/* "$root"/usr/share/{doc,locale}
(cd "$work" && apt-get download -o APT::Sandbox::User=root \
  "$(apt-cache depends linux-image-cloud-amd64 | sed -n 's/^ *Depends: *//p')" >/dev/null)
dpkg-deb --fsys-tarfile "$work"/linux-image-*.deb | tar --extract --wildcards './boot/vmlinuz-*' --to-stdout >"$work/vmlinuz"

chroot "$root" useradd --system --user-group lars-agent
mkdir -p "$root/opt/lars-agent/source"
(cd "$SOURCE" && git ls-files -z --cached --others --exclude-standard lars_agent service tests |
  xargs -0 cp --parents --target-directory "$root/opt/lars-agent/source")
sed 's|^ExecStart=.*|ExecStart=/usr/bin/python3 -m tests.deploy.limited\nWorkingDirectory=/opt/lars-agent/source|' \
  "$SOURCE/systemd/$UNIT" >"$root/etc/systemd/system/$UNIT"
cat >"$root/etc/systemd/system/rehearsal.service" <<EOF
[Service]
Type=oneshot
ExecStart=/opt/lars-agent/source/tests/deploy/limit_in_vm.sh --inside
StandardOutput=tty
StandardError=tty
TTYPath=/dev/console
EOF
systemctl --root="$root" --quiet enable "$UNIT"
systemctl --root="$root" --quiet add-wants multi-user.target rehearsal.service
(cd "$root" && find . -xdev | cpio --create --format=newc --quiet) >"$work/initrd"

boot() {
  step "a boot ${1:-}"
  timeout 900 qemu-system-x86_64 -accel tcg -cpu max -m 2048 -nographic -no-reboot -nic none \
    -kernel "$work/vmlinuz" -initrd "$work/initrd" -append "console=ttyS0 quiet panic=-1 rdinit=/lib/systemd/systemd \
    systemd.show_status=no systemd.mask=serial-getty@ttyS0.service ${1:-}" </dev/null | tee "$work/log"
  grep -q "^== all well" "$work/log"
}
boot
boot cgroup_disable=memory
