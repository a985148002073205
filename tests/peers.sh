#!/usr/bin/env bash
# Installs what the tests speak to, and only what is missing:
#   Debian packages, with root or sudo; never starts or enables a service (tests start their own, on loopback);
#   snyk-broker from the lock file in tests/interop/stock/npm, into .peers-cache/ inside the clone.
# PEERS=no leaves all of it out. Prints one line for each peer that is missing at the end; with CI=true that is a failure.
set -euo pipefail
cd "$(dirname "$0")/.."

programs=(zstd curl openssl skopeo docker-registry nginx htpasswd node npm systemd-analyze redis-server redis-cli)
declare -A package=([htpasswd]=apache2-utils [node]=nodejs [systemd-analyze]=systemd [redis-cli]=redis-tools)
cache=.peers-cache/snyk-broker
lock=tests/interop/stock/npm/package-lock.json
version=$(sed -n 's/.*"snyk-broker": "\([0-9.]*\)".*/\1/p' tests/interop/stock/npm/package.json)
export PATH="$PATH:/usr/sbin:/sbin"

missing_programs() {
  local program
  for program in "${programs[@]}"; do
    command -v "$program" >/dev/null || echo "$program"
  done
}

# As root, or through sudo.
as_root() {
  if [[ $(id -u) == 0 ]]; then "$@"; else sudo "$@"; fi
}

# Packages ask policy-rc.d before they start their service; 101 means no. An administrator's own one stays.
policy=/usr/sbin/policy-rc.d
our_policy=no
forbid_services() {
  [[ -e $policy ]] && return 0
  printf '#!/bin/sh\nexit 101\n' | as_root tee "$policy" >/dev/null
  as_root chmod 755 "$policy"
  our_policy=yes
}
allow_services() {
  [[ $our_policy == yes ]] || return 0
  as_root rm -f "$policy"
  our_policy=no
}
trap allow_services EXIT

install_programs() {
  local wanted=() program
  for program in $(missing_programs); do
    wanted+=("${package[$program]:-$program}")
  done
  ((${#wanted[@]})) || return 0
  if ! command -v apt-get >/dev/null; then
    echo "peers: no apt-get here; install by hand: ${wanted[*]}" >&2
    return 0
  fi
  if [[ $(id -u) != 0 ]] && ! command -v sudo >/dev/null; then
    echo "peers: neither root nor sudo; install by hand: ${wanted[*]}" >&2
    return 0
  fi
  echo "peers: installing ${wanted[*]}" >&2
  forbid_services
  if as_root apt-get update -qq >&2; then
    as_root env DEBIAN_FRONTEND=noninteractive RUNLEVEL=1 \
      apt-get install -y -qq --no-install-recommends "${wanted[@]}" >&2 || echo "peers: apt-get failed" >&2
  else
    echo "peers: apt-get cannot read its package lists" >&2
  fi
  # What was installed just here must not come up at the next boot either.
  for program in nginx docker-registry; do
    if [[ " ${wanted[*]} " == *" $program "* ]] && command -v systemctl >/dev/null; then
      as_root systemctl disable "$program" >/dev/null 2>&1 || true
    fi
  done
  allow_services
}

install_snyk_broker() {
  command -v npm >/dev/null || return 0
  [[ $(cat "$cache/.version" 2>/dev/null) == "$version" ]] && cmp -s "$lock" "$cache/package-lock.json" && return 0
  echo "peers: installing snyk-broker $version into $cache" >&2
  rm -rf "$cache"
  mkdir -p "$cache"
  cp tests/interop/stock/npm/package.json "$lock" "$cache/"
  if (cd "$cache" && npm ci --ignore-scripts --no-audit --no-fund --loglevel=error >&2); then
    echo "$version" >"$cache/.version"
  else
    echo "peers: npm failed" >&2
    rm -rf "$cache"
  fi
}

if [[ ${PEERS:-} != no ]]; then
  install_programs
  install_snyk_broker
fi

absent=0
for program in $(missing_programs); do
  echo "peers: missing $program; its tests are skipped" >&2
  absent=1
done
if [[ ! -d $cache/node_modules/snyk-broker ]]; then
  echo "peers: missing snyk-broker; its tests are skipped" >&2
  absent=1
fi
if [[ $absent == 1 && ${CI:-} == true ]]; then
  echo "peers: with CI=true each of them has to be there" >&2
  exit 1
fi
[[ $absent == 1 ]] || touch .peers
