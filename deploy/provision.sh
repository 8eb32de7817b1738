#!/bin/sh
# Makes a machine part of a Shoal cluster: installs the program, writes its configuration and starts its services. As root, on Debian.
# Running it again changes nothing but what has changed, so it also is the upgrade: run it on the master, then on each chunk server
# when `shoal status` says good again, then on the clients.
#
# usage: deploy/provision.sh [--package FILE] master ADDRESS
#        deploy/provision.sh [--package FILE] chunkserver NAME ADDRESS MASTER RACK
#        deploy/provision.sh [--package FILE] client MASTER DIR
#
# ADDRESS and MASTER are IP addresses or host names without a port. NAME is of this machine's choosing, one for each disk; its data is in
# /var/lib/shoal/chunkserver/NAME. Without --package it is built from the sources around this script, which needs the network.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
package=
if [ "${1:-}" = --package ]; then
  package=${2:?--package needs a file}
  shift 2
fi
usage() {
  sed -n 's/^# \(usage: \|       \)deploy/usage: deploy/p' "$0" >&2
  exit 2
}
case "${1:-} $#" in
  'master 2' | 'chunkserver 5' | 'client 3') ;;
  *) usage ;;
esac
for word in "$@"; do
  case $word in
    *[!A-Za-z0-9._:/@-]* | '')
      echo "provision.sh: \"$word\" has characters that are not allowed here" >&2
      exit 2
      ;;
  esac
done

# An IPv6 address is written in brackets before a port.
with_port() {
  case $1 in
    *:*) echo "[$1]:$2" ;;
    *) echo "$1:$2" ;;
  esac
}

# Writes standard input to a file, and says whether that changed it.
configure() {
  cat >"$1.new"
  if cmp -s "$1.new" "$1"; then
    rm "$1.new"
    return
  fi
  chmod 644 "$1.new"
  mv "$1.new" "$1"
  echo "wrote $1"
}

install_program() {
  sh "$here/node.sh"
  if [ -z "$package" ]; then
    if ! command -v g++ >/dev/null || ! command -v make >/dev/null || ! command -v python3 >/dev/null; then
      apt-get install -y -q --no-install-recommends g++ make python3
    fi
    # Elsewhere than in the sources, which may be a shared folder that is read-only or without hard links.
    build=$(mktemp -d)
    tar --create --exclude=./node_modules --exclude=./dist --exclude=./build --exclude=./.git --exclude='build/Release' \
      --directory "$here/.." . | tar --extract --directory "$build"
    (cd "$build" && npm ci --no-audit --no-fund && npm run build && sh deploy/package.sh package.tar.gz)
    sh "$here/install.sh" "$build/package.tar.gz"
    rm -rf "$build"
  else
    sh "$here/install.sh" "$package"
  fi
}

service_user() {
  if getent passwd shoal >/dev/null; then return; fi
  useradd --system --user-group --home-dir /var/lib/shoal --no-create-home --shell /usr/sbin/nologin shoal
}

# Each disk of a machine has a chunk server with a port of its own, and keeps it.
chunkserver_port() {
  port=$(sed -n 's/^listen = .*:\([0-9]*\)$/\1/p' "/etc/shoal/chunkserver-$1.conf" 2>/dev/null || true)
  if [ -z "$port" ]; then
    port=9330
    while grep -qs "^listen = .*:$port\$" /etc/shoal/chunkserver-*.conf; do port=$((port + 2)); done
  fi
  echo "$port"
}

start() {
  systemctl daemon-reload
  systemctl enable "$1"
  systemctl restart "$1"
}

install_program
case $1 in
  master)
    service_user
    configure /etc/shoal/shoal.conf <<END
# Every setting, with its meaning: shoal config
[master]
listen = $(with_port "$2" 9320)
metrics = $(with_port "$2" 9321)
END
    start shoal-master.service
    ;;
  chunkserver)
    service_user
    port=$(chunkserver_port "$2")
    configure "/etc/shoal/chunkserver-$2.conf" <<END
# Every setting, with its meaning: shoal config
[chunkserver]
master = $(with_port "$4" 9320)
listen = $(with_port "$3" "$port")
rack = $5
metrics = $(with_port "$3" $((port + 1)))
END
    start "shoal-chunkserver@$2.service"
    ;;
  client)
    if ! command -v fusermount3 >/dev/null; then
      DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends fuse3
    fi
    instance=$(systemd-escape --path "$3")
    mkdir -p "$3"
    configure "/etc/shoal/mount-$instance.env" <<END
SHOAL_SOURCE=$(with_port "$2" 9320)
SHOAL_OPTIONS=noatime
SHOAL_MOUNT_METRICS=9341
END
    start "shoal-mount@$instance.service"
    ;;
esac
