#!/usr/bin/env bash
# Installs the peers into benchmarks/.build and benchmarks/peers/node: each by itself, so that one which cannot be had here
# keeps none of the others away. What is there already is left alone. What is missing afterwards is named by the run.
set -uo pipefail
cd "$(dirname "$0")"
build=$(cd .. && pwd)/.build
mkdir -p "$build"
log="$build/install.log"
: >"$log"

step() {
    local what=$1
    shift
    echo "Installing $what" >&2
    "$@" >>"$log" 2>&1 || echo "  not installed: $(tail -n 1 "$log")" >&2
}

apt() {
    [[ $(id -u) == 0 ]] && command -v apt-get >/dev/null || { echo "needs root and apt-get: $*"; return 1; }
    export DEBIAN_FRONTEND=noninteractive
    # A server that a package brings is for the benchmark to start, not for the system.
    [[ -e /usr/sbin/policy-rc.d ]] || { printf '#!/bin/sh\nexit 101\n' >/usr/sbin/policy-rc.d; chmod +x /usr/sbin/policy-rc.d; made=1; }
    apt-get install -y --no-install-recommends "$@" || { apt-get update && apt-get install -y --no-install-recommends "$@"; }
    local status=$?
    [[ -z ${made:-} ]] || rm -f /usr/sbin/policy-rc.d
    return $status
}

swoole() {
    [[ -d $build/swoole-src ]] || git clone -q --depth 1 --branch v6.2.2 https://github.com/swoole/swoole-src "$build/swoole-src" || return 1
    apt php8.2-cli php8.2-dev g++ make autoconf || return 1
    (cd "$build/swoole-src" && phpize && ./configure --enable-swoole --disable-brotli --disable-zstd && make "-j$(nproc)")
}

[[ -e /usr/include/liburing.h ]] || step liburing apt liburing-dev
compgen -G '/usr/lib/nginx/modules/*nchan*' >/dev/null || step nchan apt nginx libnginx-mod-nchan
ldconfig -p | grep -q 'libuv\.so\.1' || step libuv apt libuv1
command -v npm >/dev/null || step Node.js apt nodejs npm
if [[ ! -e node/node_modules/.package-lock.json ]]; then
    step 'uWebSockets, ws, soketi' npm install --prefix node --silent --no-audit --no-fund --no-package-lock
fi
python="$build/peers/bin/python"
[[ -x $python ]] || step 'a virtual environment' "${PYTHON:-python3}" -m venv "$build/peers"
while read -r package; do
    "$python" -m pip show -q "$package" 2>/dev/null || step "$package" "$python" -m pip install -q --disable-pip-version-check "$package"
done <requirements.txt
[[ -e $build/swoole-src/modules/swoole.so ]] || step 'Swoole, from its sources; minutes' swoole
exit 0
