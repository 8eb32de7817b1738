#!/bin/sh
# Makes sure that Node 20 or later is here: Debian's own where it is new enough (Debian 13 and later), else NodeSource's packages.
# Does nothing, and needs no network, where it is here already.
set -eu
least=20
major() { node --version 2>/dev/null | sed -n 's/^v\([0-9]*\).*/\1/p'; }
have=$(major)
if [ "${have:-0}" -ge $least ]; then
  echo "node.sh: Node $(node --version) is here"
  exit 0
fi
export DEBIAN_FRONTEND=noninteractive
apt-get -q update
offered=$(apt-cache policy nodejs | sed -n 's/^ *Candidate: \([0-9]*\)\..*/\1/p')
if [ "${offered:-0}" -ge $least ]; then
  apt-get install -y -q --no-install-recommends nodejs npm libnode-dev
else
  apt-get install -y -q --no-install-recommends ca-certificates curl gnupg
  curl -fsSL https://deb.nodesource.com/gpgkey/nodesource-repo.gpg.key | gpg --dearmor --yes -o /usr/share/keyrings/nodesource.gpg
  echo "deb [signed-by=/usr/share/keyrings/nodesource.gpg] https://deb.nodesource.com/node_$least.x nodistro main" \
    >/etc/apt/sources.list.d/nodesource.list
  apt-get -q update
  apt-get install -y -q --no-install-recommends nodejs
fi
have=$(major)
if [ "${have:-0}" -lt $least ]; then
  echo "node.sh: Node $least or later could not be installed (there is ${have:-none})" >&2
  exit 1
fi
