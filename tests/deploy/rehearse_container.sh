#!/usr/bin/env bash
# The image of deploy/Containerfile, built and run: `make rehearse-container` (root, Debian, podman, network).
#
# On a base image made here by debootstrap, so that no registry is asked. It runs read-only and not as root, is healthy, replies to
# who has its token alone, and keeps its data in the volume over a restart. PODMAN and PODMAN_RUN: more
# options for podman (`--runtime runc`, where crun does not know the control groups) and for `podman run`.
# WORK names a folder that keeps the image for the next time.
set -euo pipefail

SOURCE="$(cd "$(dirname "$0")/../.." && pwd)"
PIP_FOLDERS="$(python3 -m pip config list | grep -o "file://[^' ]*\|='/[^']*'" |
  sed "s|^file://||; s|^='||; s|'\$||; s|/simple\$||" | sort -u | while read -r path; do [ ! -d "$path" ] || printf '%s ' "$path"; done)"
work="${WORK:-$(mktemp -d /var/tmp/lars-agent-container.XXXXXX)}"
mkdir -p "$work"
readonly LIMITS="--ulimit nofile=4096:4096 --ulimit nproc=4096:4096" # podman's own may be more than this machine grants
readonly NAME=lars-agent-rehearsal PORT="${PORT:-18321}"
ADDRESS="$(hostname -I | cut -d ' ' -f 1)" # not loopback: who asks there is another device
pod() { podman ${PODMAN:-} --root "$work/storage" --runroot "$work/run" --storage-driver vfs "$@"; }
cleanup() {
  pod rm --force --all >/dev/null 2>&1 || true
  pod volume rm --all --force >/dev/null 2>&1 || true
  [ -n "${WORK:-}" ] || rm -rf "$work"
}
trap cleanup EXIT

step() { printf '\n== %s  (%d s)\n' "$*" "$SECONDS"; }
ask() { curl --silent --show-error --fail-with-body -H "Authorization: Bearer ${token:-}" -H 'content-type: application/json' "$ADDRESS:$PORT$1" "${@:2}" && printf '\n'; }
answers() { for _ in $(seq 600); do curl --silent --fail "$ADDRESS:$PORT/health" && return; sleep 1; done; return 1; }
# shellcheck disable=SC2086
start() {
  pod run --detach --replace --name "$NAME" $LIMITS --read-only --network host --volume "$NAME:/var/lib/lars-agent" ${PODMAN_RUN:-} \
    $mounts --env "LARS_AGENT_SERVER__ALLOWED_HOSTS=[\"$ADDRESS\"]" --env "LARS_AGENT_SERVER__PORT=$PORT" lars-agent
}

mounts=''
for folder in $PIP_FOLDERS; do mounts="$mounts --volume $folder:$folder:ro"; done
hash debootstrap podman curl 2>/dev/null || apt-get install --yes --no-install-recommends debootstrap podman buildah curl >/dev/null
if ! pod image exists lars-agent; then
  step "a base image: a small Debian with Python"
  debootstrap --variant=minbase --include=python3,python3-venv,ca-certificates bookworm "$work/root" >/dev/null
  cp /etc/ssl/certs/ca-certificates.crt "$work/root/etc/ssl/certs/"
  python3 -m pip config list | sed -n "s/^global\.\([a-z-]*\)='\(.*\)'$/\1 = \2/p" | grep -v ^constraint |
    { echo '[global]'; cat; } >"$work/root/etc/pip.conf"
  tar --create --directory "$work/root" . | pod import - base >/dev/null
  rm -rf "$work/root"

  step "the image"
  mkdir "$work/context" && (cd "$SOURCE" && git ls-files -z | xargs -0 cp --parents --target-directory "$work/context")
  # shellcheck disable=SC2086
  pod build --quiet --format docker --network host --isolation chroot $mounts --build-arg BASE=localhost/base \
    --file "$work/context/deploy/Containerfile" --tag lars-agent "$work/context"
fi
pod image inspect lars-agent --format 'user {{.User}}, size {{.Size}}, {{.HealthCheck}}'

step "read-only, not as root: healthy; who has not the token that it made is not let in, who has gets a reply"
start
answers
pod exec "$NAME" sh -c 'id -u; if [ "$(id -u)" = 0 ] || touch /opt/lars-agent/x || touch /etc/x || command -v gcc make; then exit 1; fi'
pod healthcheck run "$NAME"
token=wrong
if ask /info; then false; fi
token="$(pod exec "$NAME" lars-agent token --show)"
ask /generate -d '{"inputs": "What is my dog called?", "parameters": {"max_new_tokens": 12}}'
ask /feedback -d '{"messages": [{"role": "user", "content": "My dog?"}], "response": "?", "correction": "Biscuit."}'

step "its data outlives it"
pod stop --time 30 "$NAME" && start
answers
ask /feedback | grep Biscuit
step "all well"
