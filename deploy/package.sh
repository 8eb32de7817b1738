#!/bin/sh
# Makes a package of Shoal that a machine without compilers, npm and network can install with deploy/install.sh:
# what was built here, the packages that it needs, and the deploy folder. For machines of the same architecture.
#
# usage: deploy/package.sh [FILE]      default: build/shoal-package.tar.gz
set -eu
cd "$(dirname "$0")/.."
package=${1:-build/shoal-package.tar.gz}
fail() {
  echo "package.sh: $1" >&2
  exit 1
}
[ -f dist/src/cli/shoal.js ] || fail 'there is no dist: run npm ci && npm run build first'
mkdir -p "$(dirname "$package")"
# Manual pages and the completion of shells, from the definitions of the command line.
share=dist/share
rm -rf "$share"
mkdir -p "$share/man/man8" "$share/bash-completion/completions" "$share/zsh/vendor-completions" "$share/fish/vendor_completions.d"
shoal='node dist/src/cli/shoal.js'
$shoal man --directory "$share/man/man1"
echo '.so man1/shoal-mount.1' >"$share/man/man8/mount.shoal.8"
$shoal completion bash >"$share/bash-completion/completions/shoal"
$shoal completion zsh >"$share/zsh/vendor-completions/_shoal"
$shoal completion fish >"$share/fish/vendor_completions.d/shoal.fish"
list=$(mktemp)
trap 'rm -f "$list"' EXIT
# Only the modules that are needed to run; those nested in another come with it.
npm ls --omit=dev --all --parseable 2>/dev/null | tail -n +2 | sed "s|^$PWD/||" | grep -v '/node_modules/' | sort -u >"$list"
[ -s "$list" ] || fail 'npm ls names no modules: run npm ci first'
for path in dist/src dist/mount dist/share package.json LICENSE README.md deploy mount/native/build/Release src/platform/native/build/Release; do
  if [ -e "$path" ]; then echo "$path" >>"$list"; fi
done
# Sources, other platforms and what the compiler left are not needed to run.
tar --create --gzip --file "$package.part" --owner=0 --group=0 --sort=name \
  --exclude='rocksdb/deps' --exclude='prebuilds/darwin*' --exclude='prebuilds/win32*' --exclude='obj.target' --exclude='.deps' \
  --exclude='node_modules/.bin' --exclude='*.map' --files-from="$list"
mv "$package.part" "$package"
echo "$package"
