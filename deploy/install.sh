#!/bin/sh
# Installs a package of deploy/package.sh: the program, /usr/bin/shoal, the helper of mount(8), the systemd units, manual pages and the
# completion of shells. Starts nothing and keeps every configuration file. Running it again with another package is an upgrade.
#
# usage: deploy/install.sh [--root DIR] PACKAGE      --root: into a directory tree, such as an image, instead of this machine
set -eu
root=
if [ "${1:-}" = --root ]; then
  root=${2:?--root needs a directory}
  shift 2
fi
package=${1:?usage: install.sh [--root DIR] PACKAGE}
tar --test-label --file "$package" >/dev/null 2>&1 || {
  echo "install.sh: $package is no package of package.sh" >&2
  exit 1
}
lib=$root/usr/lib/shoal
# Unpacked beside and then exchanged, so that an interrupted upgrade leaves the old program whole.
rm -rf "$lib.new"
mkdir -p "$lib.new" "$root/usr/bin" "$root/usr/sbin" "$root/etc/shoal" "$root/usr/lib/systemd/system"
tar --extract --gzip --file "$package" --directory "$lib.new" --no-same-owner
chmod 755 "$lib.new/dist/src/cli/shoal.js"
rm -rf "$lib.old"
if [ -e "$lib" ]; then mv "$lib" "$lib.old"; fi
mv "$lib.new" "$lib"
rm -rf "$lib.old"
ln -sfn ../lib/shoal/dist/src/cli/shoal.js "$root/usr/bin/shoal"
install -m 755 "$lib/deploy/mount.shoal" "$root/usr/sbin/mount.shoal"
# mount(8) looks in /sbin, which is another directory on machines without a merged /usr.
if [ ! "$root/sbin" -ef "$root/usr/sbin" ]; then
  mkdir -p "$root/sbin"
  ln -sfn ../usr/sbin/mount.shoal "$root/sbin/mount.shoal"
fi
install -m 644 "$lib"/deploy/systemd/*.service "$root/usr/lib/systemd/system/"
# A page of a command that is no more would stay.
rm -f "$root"/usr/share/man/man1/shoal.1 "$root"/usr/share/man/man1/shoal-*.1
mkdir -p "$root/usr/share"
cp -R "$lib/dist/share/." "$root/usr/share/"
echo "installed $(sed -n 's/^ *"version": "\(.*\)",$/shoal \1/p' "$lib/package.json" | head -n 1)${root:+ in $root}"
