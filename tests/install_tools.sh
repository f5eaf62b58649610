#!/usr/bin/env bash
# Installs what the tests need besides Python packages: Node.js and other people's clients, Chromium, Redis,
# PostgreSQL, Prometheus' promtool, and what a deployment consists of: Supervisor, Nginx, HAProxy, systemd.
# What is there already is left alone. Without root or apt-get it says what to install by hand.
set -euo pipefail
cd "$(dirname "$0")"

declare -A package_of=(
    [node]=nodejs [npm]=npm [chromium]=chromium [chromedriver]=chromium-driver [redis-server]=redis-server [cc]=gcc [python3-config]=python3-dev [promtool]=prometheus
    [supervisord]=supervisor [nginx]=nginx [haproxy]=haproxy [envsubst]=gettext-base [openssl]=openssl [curl]=curl [systemd-analyze]=systemd
)
PATH=$PATH:/usr/sbin:/sbin  # where servers are, which not everybody searches
missing=()
for program in "${!package_of[@]}"; do
    command -v "$program" >/dev/null || missing+=("${package_of[$program]}")
done
# Debian keeps PostgreSQL's programs out of the PATH.
command -v initdb >/dev/null || compgen -G '/usr/lib/postgresql/*/bin/initdb' >/dev/null || missing+=(postgresql)
compgen -G '/usr/lib/nginx/modules/ngx_stream_module.so' >/dev/null || missing+=(libnginx-mod-stream)
if ((${#missing[@]})); then
    if [[ $(id -u) != 0 ]] || ! command -v apt-get >/dev/null; then
        echo "The tests need these packages (Debian's names): ${missing[*]}. Install them, then run make test again." >&2
        exit 1
    fi
    echo "Installing ${missing[*]}"
    log=$(mktemp)
    trap 'rm -f "$log"' EXIT
    export DEBIAN_FRONTEND=noninteractive
    # A server that a package brings is for the tests to start, not for the system.
    printf '#!/bin/sh\nexit 101\n' >"$log.policy"
    [[ -e /usr/sbin/policy-rc.d ]] || { install -m 755 "$log.policy" /usr/sbin/policy-rc.d; made_policy=1; }
    rm -f "$log.policy"
    status=0
    { apt-get update && apt-get install -y --no-install-recommends "${missing[@]}"; } >"$log" 2>&1 || status=$?
    [[ -z ${made_policy:-} ]] || rm -f /usr/sbin/policy-rc.d
    if ((status)); then
        tail -n 20 "$log" >&2
        exit "$status"
    fi
fi

if [[ ! node/node_modules/.package-lock.json -nt node/package-lock.json ]]; then
    echo "Installing other people's clients from npm"
    npm ci --prefix node --silent --no-audit --no-fund
    touch node/node_modules/.package-lock.json
fi
