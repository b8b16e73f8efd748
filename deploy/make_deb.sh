#!/usr/bin/env bash
# Makes a Debian package of a bundle: the wheels, the base model if the bundle has one, and the scripts.
#
#     deploy/make_deb.sh BUNDLE [FOLDER]
#
# BUNDLE is a folder that `lars-agent bundle` made; the package comes into FOLDER, or here. It needs no network where it
# is installed: it does there what `install.sh --from BUNDLE` does, with the same unit, and an update is tried first, too.
# `apt remove` keeps settings and data, `apt purge` deletes them.
set -euo pipefail

case "${1:-}" in
  -h | --help) sed -n '2,/^set /{/^set /d;s/^# \{0,1\}//;p}' "$0"; exit 0 ;;
  "" | -*) printf 'make_deb.sh: give a bundle; see make_deb.sh --help\n' >&2; exit 2 ;;
esac
[ -d "$1/wheels" ] || { printf 'make_deb.sh: %s is no folder that lars-agent bundle made\n' "$1" >&2; exit 1; }
bundle="$(cd "$1" && pwd)"
target="${2:-.}"
version="$(find "$bundle/wheels" -name 'lars_agent-*.whl' -printf '%f\n' | cut -d - -f 2)"
python="$(cut -d ' ' -f 2 "$bundle/platform")"
case "$(cut -d ' ' -f 3 "$bundle/platform")" in x86_64) arch=amd64 ;; aarch64) arch=arm64 ;; *) arch="$(dpkg --print-architecture)" ;; esac
root="$(mktemp -d "$target/.deb.XXXXXX")"
trap 'rm -rf "$root"' EXIT
chmod 0755 "$root"
readonly HOME_IN_IT=/usr/share/lars-agent/bundle

mkdir -p "$root/DEBIAN" "$root$HOME_IN_IT"
cp -r --no-preserve=ownership "$bundle/." "$root$HOME_IN_IT"
cat >"$root/DEBIAN/control" <<END
Package: lars-agent
Version: $version
Architecture: $arch
Maintainer: lars-agent's authors <lars-agent@localhost>
Depends: python3 (>= $python), python3 (<< ${python%.*}.$((${python#*.} + 1))), python3-venv, systemd, util-linux
Recommends: libjemalloc2
Installed-Size: $(du -sk "$root/usr" | cut -f 1)
Section: misc
Priority: optional
Description: Local language model that learns from its user
 It stores corrections on this device, trains a small adapter while the device is idle and within a memory budget,
 and serves it if it is better than the one in use.
END
cat >"$root/DEBIAN/postinst" <<END
#!/bin/sh
set -e
if [ "\$1" = configure ]; then PYTHON=/usr/bin/python3 $HOME_IN_IT/deploy/install.sh; fi
END
cat >"$root/DEBIAN/prerm" <<END
#!/bin/sh
set -e
if [ "\$1" = remove ]; then $HOME_IN_IT/deploy/uninstall.sh; fi
END
cat >"$root/DEBIAN/postrm" <<'END'
#!/bin/sh
set -e
if [ "$1" = purge ]; then
  rm -rf /etc/lars-agent /var/lib/lars-agent
  if id lars-agent >/dev/null 2>&1; then userdel lars-agent; fi
fi
END
chmod 0755 "$root"/DEBIAN/p*
dpkg-deb --root-owner-group -Znone --build "$root" "$target/lars-agent_${version}_$arch.deb"
