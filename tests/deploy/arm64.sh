#!/usr/bin/env bash
# The installation on arm64, emulated: `make rehearse-arm64` (root, Debian, network). CPU=cortex-a76 for a Raspberry Pi 5.
#
# Resolves the dependencies for both releases of Raspberry Pi OS, installs from wheels alone into a small Debian for arm64,
# replies, learns, and runs the core of the tests there; then it writes what differs from this machine into
# docs/raspberry-pi.md. The emulator lacks what the chosen processor lacks, so that an instruction too new for it ends the
# process as it does there. It shows that things work, not how fast: some hours, most of them for the adaptation.
# WORK=FOLDER keeps what was made, and goes on from there.
set -euo pipefail

readonly SOURCE="$(cd "$(dirname "$0")/../.." && pwd)"
readonly HERE="$SOURCE/tests/deploy" PAGE="$SOURCE/docs/raspberry-pi.md" PORT=8397
export QEMU_CPU="${CPU:-cortex-a72}" # a Raspberry Pi 4's
readonly RELEASES="3.11:2_36 3.13:2_40" # Python and the C library: Bookworm; Trixie, whose 2.41 uv has no name for
readonly PACKAGES=python3,python3-venv,ca-certificates,libjemalloc2
# Layer, kernels, memory, store, database, curation and gate; of what loads a model, tests with tiny ones.
readonly CORE="tests/lars tests/memory tests/ops tests/store tests/service/db tests/models/test_quantize.py tests/training/test_batches.py
  tests/training/test_curate.py tests/training/test_gate.py tests/training/test_trainer.py tests/runtime/test_engine.py
  tests/runtime/test_fast_decoder.py tests/runtime/test_fast_linear.py tests/runtime/test_grammar.py tests/runtime/test_rpc.py
  tests/runtime/test_sampling.py tests/service/schedule/test_raspberry_pi.py"
work="${WORK:-$(mktemp -d /var/tmp/lars-agent-arm64.XXXXXX)}"
root="$work/root"
readonly machine=(nice -n 10 chroot "$root" /usr/bin/env --unset=SSL_CERT_FILE --unset=SSL_CERT_DIR
  OMP_NUM_THREADS=1 PATH=/opt/lars-agent/venv/bin:/usr/sbin:/usr/bin HOME=/root
  LANG=C.UTF-8 PYTHONPATH= LARS_AGENT_DATA_DIR=/var/lib/lars-agent LARS_AGENT_SERVER__PORT="$PORT" LARS_AGENT_SCHEDULE__ENABLED=false
  LARS_AGENT_TRAINING__STEPS=2 LARS_AGENT_TRAINING__EVALUATE_EVERY=2 LARS_AGENT_TRAINING__BATCH_SIZE=2
  LARS_AGENT_IDLE__MAX_CPU=1.0 LARS_AGENT_IDLE__MAX_LOAD=100 LARS_AGENT_IDLE__MAX_MEMORY_PRESSURE=100
  LARS_AGENT_TRAINING__HANG_S=36000 LARS_AGENT_RUNTIME__DEADLINE_S=0)
daemon=

cleanup() {
  if [ -n "$daemon" ]; then kill "$daemon" 2>/dev/null || true; wait "$daemon" 2>/dev/null || true; fi
  for folder in dev proc sys; do umount --lazy --recursive "$root/$folder" 2>/dev/null || true; done
  if [ -z "${WORK:-}" ]; then rm -rf --one-file-system "$work"; fi
}
trap cleanup EXIT

step() { printf '\n== %s\n' "$*"; }
emulated() { "${machine[@]}" "$@"; }
ask() { curl --silent --show-error --fail-with-body --max-time 7200 "localhost:$PORT$1" -H 'content-type: application/json' "${@:2}" && printf '\n'; }
resolve() { uv --quiet pip compile --no-header --no-annotate --python-version "${1%:*}" --only-binary :all: \
  --python-platform "aarch64-manylinux_${1#*:}" "${@:2}" "$SOURCE/pyproject.toml"; }

step "programs of this machine"
hash debootstrap curl qemu-aarch64-static 2>/dev/null || apt-get install --yes qemu-user-static binfmt-support debootstrap curl >/dev/null
[ -e /proc/sys/fs/binfmt_misc/register ] || mount -t binfmt_misc binfmt_misc /proc/sys/fs/binfmt_misc
[ -e /proc/sys/fs/binfmt_misc/qemu-aarch64 ] || update-binfmts --enable qemu-aarch64
if ! hash uv 2>/dev/null; then
  [ -x "$work/tools/bin/uv" ] || { python3 -m venv "$work/tools" && "$work/tools/bin/pip" --quiet install uv; }
  PATH="$work/tools/bin:$PATH"
fi
qemu-aarch64-static --version | head -n 1

step "wheels for Python and the C library of Raspberry Pi OS, with our versions and with the newest"
for release in $RELEASES; do
  resolve "$release" --constraint "$SOURCE/constraints.txt" >"$work/pinned-${release%:*}.txt"
  resolve "$release" >"$work/newest-${release%:*}.txt"
  for list in pinned newest; do
    printf 'Python %s, %s: %s packages, %s\n' "${release%:*}" "$list" "$(wc -l <"$work/$list-${release%:*}.txt")" \
      "$(grep '^torch==' "$work/$list-${release%:*}.txt")"
    if grep --extended-regexp '^(nvidia|cuda|triton)' "$work/$list-${release%:*}.txt"; then exit 1; fi
  done
done

step "a small Debian for arm64"
if [ ! -x "$root/usr/bin/python3" ]; then
  debootstrap --arch=arm64 --foreign --variant=minbase --include="$PACKAGES" bookworm "$root" >/dev/null
  # Unpacked by this machine, their installation scripts left out: the emulator would take half an hour for them.
  for package in "$root"/var/cache/apt/archives/*.deb; do
    dpkg-deb --fsys-tarfile "$package" | tar --extract --keep-directory-symlink --directory "$root"
  done
  rm -rf "$root"/debootstrap "$root"/var/cache/apt/archives/*.deb "$root"/usr/share/{doc,locale,man}
  printf 'root:x:0:0:root:/root:/bin/sh\n' >"$root/etc/passwd"
  printf 'root:x:0:\n' >"$root/etc/group"
fi
cp /etc/resolv.conf "$root/etc/"
if [ -L "$root/proc" ]; then rm "$root/proc" && mkdir "$root/proc"; fi # debootstrap's, where it may not mount: to itself
mount -t proc proc "$root/proc" && mount -t sysfs -o ro sysfs "$root/sys" && mount --rbind /dev "$root/dev" && mount --make-rslave "$root/dev"
emulated ldconfig
emulated python3 -c 'import platform, sys; print(platform.machine(), sys.version)'

step "installed from wheels alone"
prefix="$root/opt/lars-agent/venv"
if [ ! -x "$prefix/bin/lars-agent" ]; then
  mkdir -p "$work/source" "$work/wheels"
  cp -r "$SOURCE"/{pyproject.toml,README.md,lars_agent,service,deploy,systemd} "$work/source"
  uv --quiet build --wheel --out-dir "$work/wheels" "$work/source"
  python3 -m pip --disable-pip-version-check download --quiet --quiet --no-deps --only-binary :all: --python-version 3.11 \
    --platform manylinux_2_36_aarch64 --platform manylinux_2_34_aarch64 --platform manylinux_2_31_aarch64 \
    --platform manylinux_2_28_aarch64 --platform manylinux_2_17_aarch64 --platform manylinux2014_aarch64 \
    --dest "$work/wheels" --requirement "$work/pinned-3.11.txt"
  emulated python3 -m venv --without-pip /opt/lars-agent/venv
  uv --quiet pip install --prefix "$prefix" --python-version 3.11 --python-platform aarch64-manylinux_2_36 \
    --only-binary :all: --no-index --find-links "$work/wheels" "$work"/wheels/lars_agent-*.whl
  sed -i '1s|.*|#!/opt/lars-agent/venv/bin/python|' "$prefix/bin/lars-agent"
fi
printf 'downloaded: %s MiB in %s wheels; installed: %s MiB\n' "$(du --summarize --block-size=1M "$work/wheels" | cut -f 1)" \
  "$(find "$work/wheels" -name '*.whl' | wc -l)" "$(du --summarize --block-size=1M "$prefix" | cut -f 1)"
python3 -m compileall -q -s "$root" "$prefix" || true # by this machine: the emulator would take much longer
python3 "$HERE/page_size.py" "$prefix"
python3 "$HERE/page_size.py" "$root/usr/lib/aarch64-linux-gnu"
emulated lars-agent --version

step "the release of torch before the one that brings CUDA needs instructions that a Raspberry Pi 4 lacks"
python3 -m pip --disable-pip-version-check download --quiet --quiet --no-deps --only-binary :all: --python-version 3.11 \
  --platform manylinux_2_28_aarch64 --dest "$work/refused" torch==2.10.0
python3 -m zipfile --extract "$work"/refused/torch-2.10.0-*.whl "$root/refused"
if QEMU_CPU=cortex-a72 emulated python3 -c 'import ctypes; ctypes.CDLL("/refused/torch/lib/libc10.so")'; then
  echo "it runs there now: see the pin in constraints.txt" >&2 && exit 1
fi
rm -rf "$root/refused" "$work/refused"

learns() {
  step "the default model, loaded by the daemon; a reply"
  state="$root/var/lib/lars-agent"
  if [ ! -d "$state/models" ] && [ -d "$SOURCE/.cache/models/smollm2-135m-instruct" ]; then
    mkdir -p "$state/models" # what is converted here is the same; quantized weights are made there
    cp -rL "$SOURCE/.cache/models/smollm2-135m-instruct" "$state/models/"
    rm -f "$state"/models/*/model-int*.safetensors
  fi
  emulated lars-agent model pull default
  "${machine[@]}" lars-agent serve >>"$work/daemon.log" 2>&1 &
  daemon=$!
  until ask /health >/dev/null 2>&1; do kill -0 "$daemon" || { tail -n 30 "$work/daemon.log"; exit 1; }; sleep 5; done
  emulated lars-agent doctor || true # what it says of the emulator is no fault of the installation
  ask /generate -d '{"inputs": "What is my dog called?", "parameters": {"max_new_tokens": 8}}'

  step "an adaptation, published as v1 and swapped in"
  for number in 1 2 3 4 5 6; do
    ask /feedback -d "{\"prompt\": \"What is number $number?\", \"response\": \"?\", \"correction\": \"It is $number$number.\"}" >/dev/null
  done
  emulated lars-agent adapt --wait
  emulated lars-agent adapters
  ask /generate -d '{"inputs": "What is number 1?", "parameters": {"max_new_tokens": 8}}'
  ask /info | grep -q '"default": *"v1"'
  kill "$daemon" && wait "$daemon" || true
  daemon=
  touch "$work/learned"
}
if [ ! -e "$work/learned" ]; then learns; fi # in a list with || nothing would end it

step "the core of the tests"
mkdir -p "$root/root/lars-agent"
(cd "$SOURCE" && git ls-files -z pyproject.toml tests examples bench docs deploy systemd README.md constraints.txt |
  xargs -0 cp --parents --target-directory "$root/root/lars-agent")
[ -d "$prefix/lib/python3.11/site-packages/pytest" ] || uv --quiet pip install --prefix "$prefix" --python-version 3.11 \
  --python-platform aarch64-manylinux_2_36 --only-binary :all: --constraint "$SOURCE/constraints.txt" \
  pytest pytest-timeout pytest-xdist hypothesis jsonschema-rs peft
# shellcheck disable=SC2086 # one argument for each file
emulated sh -c "cd /root/lars-agent && exec python -m pytest -q -n $(nproc) --dist loadfile --timeout 7200 -m 'not real_model and not browser' \
  -p no:cacheprovider $(echo $CORE)"

step "the packed product of a processor that has dot products of bytes"
QEMU_CPU=cortex-a76 emulated sh -c "cd /root/lars-agent && exec python -m bench.child bench.serve.int4_path.int4_path \
  '[\"/var/lib/lars-agent/models/smollm2-135m-instruct\"]'" | tee "$work/int4_path.json"
QEMU_CPU=cortex-a76 "${PYTHON:-$SOURCE/.venv/bin/python}" "$HERE/record_int4_path.py" "$work/int4_path.json"

step "what differs"
cp "$HERE/platform_report.py" "$root/root/"
mkdir -p "$work/report"
"${PYTHON:-$SOURCE/.venv/bin/python}" "$HERE/platform_report.py" >"$work/report/x86-64.json"
for chip in cortex-a72 cortex-a76; do
  QEMU_CPU="$chip" emulated python /root/platform_report.py >"$work/report/$chip.json"
done
python3 "$HERE/platform_report.py" "$work"/report/{x86-64,cortex-a72,cortex-a76}.json | tee "$work/table.md"
sed -i -e "/<!-- arm64:begin -->/,/<!-- arm64:end -->/{/<!-- arm64:/!d}" -e "/<!-- arm64:begin -->/r $work/table.md" "$PAGE"
step "all well"
