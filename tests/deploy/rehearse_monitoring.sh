#!/usr/bin/env bash
# Alerts, board, journal and support bundle with the real programs: `make rehearse-monitoring` (root, Debian, network).
#
# A daemon, whose model and worker alone are stand-ins, logs to a journald of its own and is scraped by a Prometheus of its
# own, in a mount namespace that ends with the script. Takes two minutes; not part of `make test`.
set -euo pipefail

readonly SOURCE="$(cd "$(dirname "$0")/../.." && pwd)"
readonly PYTHON="$(realpath --no-symlinks "${PYTHON:-$SOURCE/.venv/bin/python}")" TOKEN=rehearsal-of-the-monitoring
readonly BOARD="$SOURCE/deploy/grafana/lars-agent.json"
if [ "${1:-}" != inside ]; then
  for program in prometheus promtool; do
    command -v "$program" >/dev/null || apt-get install --yes --no-install-recommends prometheus >/dev/null
  done
  exec unshare --mount --propagation private "$0" inside
fi

cd "$SOURCE"
pids=()
cleanup() { for pid in "${pids[@]}"; do kill "$pid" 2>/dev/null || true; wait "$pid" 2>/dev/null || true; done; }
trap cleanup EXIT
step() { printf '\n== %s\n' "$*"; }
until_true() { for _ in $(seq 120); do "$@" >/dev/null 2>&1 && return; sleep 0.5; done; echo "never: $*" >&2; return 1; }
free_port() { "$PYTHON" -c 'import socket; s = socket.create_server(("127.0.0.1", 0)); print(s.getsockname()[1])'; }
ask() { curl --silent --show-error --fail-with-body -H "Authorization: Bearer $TOKEN" "http://127.0.0.1:$daemon_port$1" "${@:2}"; }
query() { curl --silent --show-error --fail-with-body --get "http://127.0.0.1:$prometheus_port/api/v1/query" --data-urlencode "query=$1"; }
answers() { query "$1" | grep -q '"result":\[{'; }
counted() { [ "$(journalctl --quiet --output cat "${@:2}" | wc -l)" -ge "$1" ]; }

step "a journald"
mount -t tmpfs tmpfs /run
[ ! -d /var/log/journal ] || mount -t tmpfs tmpfs /var/log/journal
mkdir -p /run/systemd/journal /run/systemd/journald.conf.d /run/log/journal /run/work
printf '[Journal]\nAudit=no\nReadKMsg=no\n' >/run/systemd/journald.conf.d/rehearsal.conf
/lib/systemd/systemd-journald & pids+=($!)
until_true test -S /run/systemd/journal/socket

step "a daemon that logs to it, and asks for a token"
cd /run/work
daemon_port="$(free_port)" prometheus_port="$(free_port)"
printf 'data_dir = "/run/work/data"\n[server]\nport = %s\ntoken = "%s"\n[schedule]\nenabled = false\n' "$daemon_port" "$TOKEN" >config.toml
touch go
# As systemd starts it: stdout and stderr are a stream of the journal, which JOURNAL_STREAM names.
PYTHONPATH="$SOURCE" systemd-cat --identifier=rehearsal bash -c 'export JOURNAL_STREAM=$(stat --dereference --format=%d:%i /proc/$$/fd/2)
  exec "$@"' bash "$PYTHON" -c 'import sys
from service.process import log
log.configure()
from tests.service.server_child import main
main(*sys.argv[1:])' config.toml go & pids+=($!) daemon=$!
until_true ask /health
ask /generate -H 'content-type: application/json' -d '{"inputs": "Hello"}' >/dev/null
for number in 1 2 3 4 5 6; do
  ask /feedback -H 'content-type: application/json' \
    -d "{\"prompt\": \"What is number $number?\", \"response\": \"?\", \"correction\": \"It is $number$number.\"}" >/dev/null
done
ask /jobs -H 'content-type: application/json' -d '{"profile": "default"}' >/dev/null

step "the journal finds its lines by event, job, outcome and priority"
until_true counted 1 LARS_AGENT_EVENT=job_ended LARS_AGENT_STATUS=succeeded
until_true counted 1 LARS_AGENT_EVENT=model_loaded PRIORITY=6
job="$(journalctl --quiet --output json LARS_AGENT_EVENT=job_ended | grep -o '"LARS_AGENT_JOB":"[^"]*"' | cut -d'"' -f4)"
until_true counted 1 "LARS_AGENT_JOB=$job"
PYTHONPATH="$SOURCE" systemd-cat bash -c 'export JOURNAL_STREAM=$(stat --dereference --format=%d:%i /proc/$$/fd/2)
  exec "$0" -c "from service.process import log, crash_loop; log.configure(); crash_loop.log.error(\"safe_mode\", message=\"rehearsed\")"' "$PYTHON"
until_true counted 1 LARS_AGENT_EVENT=safe_mode PRIORITY=3
journalctl --quiet --priority=warning --output cat SYSLOG_IDENTIFIER=lars-agent | tee warnings
[ "$(grep --count . warnings)" = "$(grep --count ^safe_mode warnings)" ]
journalctl --quiet --output verbose LARS_AGENT_EVENT=job_ended | grep -E '^ +(LARS_AGENT|PRIORITY|MESSAGE)'

step "promtool"
promtool check rules "$SOURCE/deploy/prometheus/alerts.yml"
promtool test rules "$SOURCE/deploy/prometheus/alerts_test.yml"

step "a Prometheus that scrapes it, with the example's configuration"
printf %s "$TOKEN" >token
sed "s|/etc/prometheus/lars-agent.token|/run/work/token|; s|/etc/prometheus/lars-agent-alerts.yml|$SOURCE/deploy/prometheus/alerts.yml|
  s|localhost:8321|127.0.0.1:$daemon_port|; s|scrape_interval: 30s|scrape_interval: 5s|" "$SOURCE/deploy/prometheus/scrape.yml" >prometheus.yml
promtool check config prometheus.yml
prometheus --config.file=prometheus.yml --storage.tsdb.path=tsdb --web.listen-address="127.0.0.1:$prometheus_port" \
  --log.level=error & pids+=($!)
until_true answers 'up{job="lars-agent"} == 1'
until_true answers 'rate(lars_agent_tokens_total[1m])'

step "every query of the board"
instance="127.0.0.1:$daemon_port"
"$PYTHON" - "$BOARD" "$instance" "http://127.0.0.1:$prometheus_port" <<'PYTHON'
import json, sys, urllib.error, urllib.parse, urllib.request

board, instance, address = json.load(open(sys.argv[1])), sys.argv[2], sys.argv[3]
found, empty = 0, []
for panel in board["panels"]:
    for target in panel.get("targets", ()):
        expression = target["expr"].replace("$instance", instance).replace("$job", "lars-agent")
        expression = expression.replace("$__rate_interval", "1m")
        form = urllib.parse.urlencode({"query": expression})
        answer = json.load(urllib.request.urlopen(f"{address}/api/v1/query?{form}"))
        assert answer["status"] == "success", expression
        found += 1
        if not answer["data"]["result"]:
            empty.append(f"{panel['title']}: {expression}")
print(found, "queries answered;", len(empty), "without a value:")
print("\n".join(empty))
PYTHON

step "the support bundle, with the daemon"
export LARS_AGENT_DATA_DIR=/run/work/data LARS_AGENT_TOKEN="$TOKEN" HOME=/run/work
PYTHONPATH="$SOURCE" "$PYTHON" -m service support-bundle bundle.zip --url "http://$instance"
[ "$(stat --format=%a bundle.zip)" = 600 ]
"$PYTHON" -m zipfile -e bundle.zip bundle
! grep --recursive --ignore-case --text "number\b.[1-6]\|$TOKEN\|/run/work\|$job" bundle
grep -q job_ended bundle/log.json

step "the daemon goes, and the alert comes"
kill "$daemon"; wait "$daemon" || true
until_true answers 'ALERTS{alertname="LarsAgentDown"}'
PYTHONPATH="$SOURCE" "$PYTHON" -m service support-bundle stopped.zip --url "http://$instance" >/dev/null
step "all well"
