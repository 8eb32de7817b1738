#!/bin/bash
# The machines of the Vagrantfile as real ones, with a kernel and a systemd each: Debian 12 in emulated PCs. They are provisioned with the
# scripts and arguments of `vagrant up` and booted one after another. Then they are used: one client writes and the other reads while a
# chunk server loses its power, a disk is added, and a server is drained and removed. Prints a transcript; ends with 0 when all of it was as
# it should be.
#
# It is not part of `npm cit`: without hardware virtualisation (it uses none, because not every kernel boots under a nested one) it takes
# ten minutes on an idle machine and more on a busy one. To spare the emulated processors most of the work, a machine is provisioned in
# its disk before its first boot; the added disk is provisioned on the running machine. Everything lives in a temporary directory and in
# namespaces of its own (the network too: the machines see nobody else), and is gone when it ends.
#
# usage: test/vm/run.sh [--box FILE]      as root, after npm run build
#        --box: keep the image with Debian in FILE (and FILE.*), and take it from there the next time; otherwise it is made each time
set -euo pipefail
here=$(cd "$(dirname "$0")/../.." && pwd)
fail() {
  echo "test/vm/run.sh: $1" >&2
  exit 1
}

# ---- outside: what is needed of this machine, the package, the image with Debian

missing_tools() {
  local tool missing=()
  for tool in debootstrap qemu-system-x86_64 mkfs.ext4 xz ssh ssh-keygen ip unshare setpriv node; do
    command -v $tool >/dev/null || missing+=($tool)
  done
  for tool in /dev/net/tun /dev/loop-control; do [ -c $tool ] || missing+=($tool); done
  echo "${missing[*]}"
}

# A Debian with what a box for Vagrant has: a kernel, systemd, ssh for root. Node comes from this machine, because NodeSource may be out of
# reach, and fuse3 is there already, because the machines have no network but their own.
make_box() {
  local box=$1 root=$1.root packages
  packages=systemd,systemd-sysv,udev,iproute2,kmod,procps,openssh-server,linux-image-amd64,zstd,fuse3,libstdc++6
  mkdir -p "$root/etc/initramfs-tools/conf.d" "$root/etc/initramfs-tools/hooks" "$root/etc/dpkg/dpkg.cfg.d"
  echo force-unsafe-io >"$root/etc/dpkg/dpkg.cfg.d/fast"
  # Only the drivers of these machines: emulated, they unpack a small one much sooner.
  echo 'MODULES=list' >"$root/etc/initramfs-tools/conf.d/small"
  printf '%s\n' '#!/bin/sh' '[ "$1" = prereqs ] && exit' '. /usr/share/initramfs-tools/hook-functions' \
    'for module in virtio_pci virtio_blk virtio_net ext4; do force_load $module; done' >"$root/etc/initramfs-tools/hooks/small"
  chmod 755 "$root/etc/initramfs-tools/hooks/small"
  # In a mount namespace of its own, so that nothing that it mounts is left when it is killed.
  unshare --mount --pid --fork --kill-child --mount-proc debootstrap --variant=minbase "--include=$packages" \
    bookworm "$root" http://deb.debian.org/debian >"$box.log" 2>&1 || fail "debootstrap failed: $(tail -n 1 "$box.log")"
  rm -rf "$root"/var/cache/apt/archives/*.deb "$root"/var/lib/apt/lists/*
  install -m 755 "$(readlink -f "$(command -v node)")" "$root/usr/bin/node"
  # What nobody looks at here; the address is the machine's own (see prepare).
  systemctl --root="$root" --quiet mask apt-daily.timer apt-daily-upgrade.timer dpkg-db-backup.timer fstrim.timer e2scrub_all.timer \
    e2scrub_reap.service getty.target
  ssh-keygen -q -t ed25519 -N '' -f "$box.key"
  mkdir -p -m 700 "$root/root/.ssh"
  cp "$box.key.pub" "$root/root/.ssh/authorized_keys"
  # Unpacked here, and entered as a PVH kernel: emulated, it would take longer to unpack itself than to boot.
  node --input-type=module -e '
    import { execFileSync } from "node:child_process"
    import { readFileSync, writeFileSync } from "node:fs"
    const image = readFileSync(process.argv[1])
    const start = (image[0x1f1] + 1) * 512 + image.readUInt32LE(0x248)
    const packed = image.subarray(start, start + image.readUInt32LE(0x24c))
    writeFileSync(process.argv[2], execFileSync("xz", ["-dc", "--single-stream"], { input: packed, maxBuffer: 2 ** 30 }))
  ' "$root"/boot/vmlinuz-* "$box.kernel"
  cp "$root"/boot/initrd.img-* "$box.initrd"
  mkfs.ext4 -q -d "$root" "$box.part" 3G >/dev/null
  rm -r "$root"
  mv "$box.part" "$box"
}

if [ "${1:-}" != --inside ]; then
  box=
  if [ "${1:-}" = --box ]; then
    box=$(realpath -m "${2:?--box needs a file}")
    shift 2
  fi
  [ $# = 0 ] || fail "unknown argument \"$1\"; see the head of this file"
  [ "$(id -u)" = 0 ] || fail 'it has to be root, for the image and the namespaces'
  missing=$(missing_tools)
  [ -z "$missing" ] || fail "this machine lacks $missing (apt-get install debootstrap qemu-system-x86 openssh-client iproute2 xz-utils)"
  work=$(mktemp -d)
  machines=
  trap '[ -z "$machines" ] || kill -KILL "$machines" 2>/dev/null || true; rm -rf "$work"' EXIT
  trap 'exit 130' INT TERM
  sh "$here/deploy/package.sh" "$work/package.tar.gz" >/dev/null
  box=${box:-$work/box}
  if [ ! -e "$box" ]; then
    echo "$(date +%T) making an image of Debian 12"
    make_box "$box"
  fi
  # The first process in there is this script again; everything that it starts ends with it, and it ends with this one.
  setpriv --pdeathsig KILL unshare --net --mount --pid --fork --kill-child --mount-proc "$0" --inside "$work" "$box" &
  machines=$!
  wait "$machines"
  machines=
  exit
fi

# ---- inside: the machines

work=$2 box=$3
trap 'exit 130' INT TERM
cp "$box.key" "$work/key"
chmod 600 "$work/key"
network=192.168.56
declare -A address memory role power

# Names, addresses, memory and roles are the Vagrantfile's.
master=$network.$(sed -n 's/^master = "#{network}\.\([0-9]*\)"$/\1/p' "$here/Vagrantfile")
machine_lines=$(sed -n "s/^  '\([a-z0-9]*\)' => { address: \(.*\), memory_mib: \([0-9]*\), \(.*\) },\?$/\1|\2|\3|\4/p" "$here/Vagrantfile")
while IFS='|' read -r name where mib rest; do
  if [ "$where" = master ]; then address[$name]=$master; else address[$name]=$network.$(sed 's/[^0-9]//g' <<<"$where"); fi
  memory[$name]=$mib
  case $rest in
    "role: ['master', "*) role[$name]="master $master" ;;
    "role: ['client', "*) role[$name]="client $master /mnt/shoal" ;;
    rack:*) role[$name]="chunkserver $name ${address[$name]} $master $(sed "s/.*'\(.*\)'/\1/" <<<"$rest")" ;;
    *) fail "the Vagrantfile has a machine of an unknown kind: $name" ;;
  esac
done <<<"$machine_lines"
[ "${!role[*]}" != '' ] && [ "${#role[@]}" = 6 ] || fail "the Vagrantfile was not understood: ${!role[*]}"

ip link set lo up
ip link add br0 type bridge
ip addr add $network.1/24 dev br0
ip link set br0 up

step() { printf '\n%s == %s\n' "$(date +%T)" "$1"; }

# A disk for a machine, with its name, its address and what the Vagrantfile does with it.
prepare() {
  local name=$1 root=$work/root
  cp --reflink=auto --sparse=always "$box" "$work/$name.disk"
  mkdir -p "$root"
  mount -o loop "$work/$name.disk" "$root"
  mount -t proc proc "$root/proc"
  mount --bind /dev "$root/dev"
  echo "$name" >"$root/etc/hostname"
  echo "127.0.0.1 localhost $name" >"$root/etc/hosts"
  cat >"$root/etc/systemd/system/address.service" <<UNIT
[Unit]
DefaultDependencies=no
Before=network-online.target network.target
Wants=network.target
[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=/usr/sbin/ip addr add ${address[$name]}/24 dev eth0
ExecStart=/usr/sbin/ip link set eth0 up
[Install]
WantedBy=sysinit.target
UNIT
  systemctl --root="$root" --quiet enable address.service
  mkdir "$root/vagrant"
  cp -r "$here/deploy" "$root/vagrant/"
  cp "$work/package.tar.gz" "$root/vagrant/"
  echo "$name# sh /vagrant/deploy/provision.sh --package /vagrant/package.tar.gz ${role[$name]}"
  env -u NODE_OPTIONS chroot "$root" sh -c "sh /vagrant/deploy/provision.sh --package /vagrant/package.tar.gz ${role[$name]}" 2>&1
  umount -R "$root"
}

# Boots a machine from what its disk has, and waits until ssh answers.
boot() {
  local name=$1 number=${address[$1]##*.} seconds=$SECONDS
  # (/sys shows the interfaces of another network namespace.)
  if ! ip link show "tap$number" >/dev/null 2>&1; then
    ip tuntap add "tap$number" mode tap
    ip link set "tap$number" master br0 up
  fi
  # In a session of its own: what interrupts this script is not for the machines, and they get their share of the processor each.
  # A processor without AVX: its wide instructions are slow when they are emulated, and programs use them where they see them.
  setsid nice -n 5 qemu-system-x86_64 -accel tcg -cpu Nehalem -m "${memory[$name]}" -display none -monitor none -no-reboot \
    -serial "file:$work/$name.console" -kernel "$box.kernel" -initrd "$box.initrd" \
    -append 'root=/dev/vda rw console=ttyS0 quiet panic=1 no_timer_check mitigations=off net.ifnames=0' \
    -drive "file=$work/$name.disk,format=raw,if=virtio" -device virtio-rng-pci \
    -netdev "tap,id=net,ifname=tap$number,script=no,downscript=no" \
    -device "virtio-net-pci,netdev=net,romfile=,mac=52:54:00:00:00:$(printf %02x "$number")" </dev/null >"$work/$name.qemu" 2>&1 &
  power[$name]=$!
  until ssh_to "$name" true 2>/dev/null; do
    kill -0 "${power[$name]}" 2>/dev/null || fail "$name did not stay on: $(tail -n 3 "$work/$name.qemu" "$work/$name.console")"
    [ $((SECONDS - seconds)) -lt 900 ] || fail "$name did not answer in 15 minutes: $(tail -n 3 "$work/$name.console")"
    sleep 2
  done
  echo "$(date +%T) $name is on: $(ssh_to "$name" 'uname -r; cat /etc/debian_version' | paste -sd ' '), after $((SECONDS - seconds)) s"
}

# As when the plug is pulled.
power_off() {
  kill -KILL "${power[$1]}"
  wait "${power[$1]}" 2>/dev/null || true
  rm -f "$work/$1.socket"
  echo "$(date +%T) $1 has no power"
}

ssh_to() {
  local name=$1
  shift
  ssh -q -i "$work/key" -o BatchMode=yes -o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null -o ConnectTimeout=10 \
    -o ServerAliveInterval=15 -o ServerAliveCountMax=8 -o ControlMaster=auto -o "ControlPath=$work/$name.socket" -o ControlPersist=600 \
    "root@${address[$name]}" "$@" </dev/null
}

# A command on a machine, shown with its output.
on() {
  local name=$1 code=0
  shift
  echo "$name# $*"
  ssh_to "$name" "$*" 2>&1 || code=$?
  [ $code = 0 ] || echo "(exit code $code)"
  return $code
}

# The administrator's own machine is this one, on the same network.
shoal() {
  local code=0
  echo "admin# shoal $*"
  SHOAL_CONFIG=/dev/null SHOAL_MASTER=$master:9320 node "$here/dist/src/cli/shoal.js" "$@" 2>&1 || code=$?
  [ $code = 0 ] || echo "(exit code $code)"
  return $code
}

# Until a command prints this, wherever it runs (shoal, or on a machine); at most 15 minutes.
until_prints() {
  local pattern=$1 said='' seconds=$SECONDS
  shift
  until said=$("$@") && grep -Eq "$pattern" <<<"$said"; do
    [ $((SECONDS - seconds)) -lt 900 ] || fail "\"$*\" does not say \"$pattern\" but: $said"
    sleep 3
  done
  printf '%s\n(after %d s)\n' "$said" $((SECONDS - seconds))
}

same() {
  [ "$1" = "$2" ] || fail "$3 reads something else: \"$1\" instead of \"$2\""
  echo "$3 reads the same"
}

sums='cd /mnt/shoal && sha256sum data hello && find tree -type f | sort | xargs sha256sum | sha256sum'

step 'up'
for name in master chunk1 chunk2 chunk3 client1 client2; do
  prepare $name
  boot $name
done
for name in client1 client2; do until_prints shoal on $name 'grep shoal /proc/mounts'; done
until_prints '^ *3 .* up' shoal servers
until_prints '^health +good' shoal status
on master 'ps -o user=,args= -C node'

step 'one client writes, the other reads'
on client1 'cd /mnt/shoal && head -c 10000000 /dev/urandom >data && cp -r /etc/systemd tree && echo hello >hello && sync data hello'
written=$(ssh_to client1 "$sums")
echo "$written"
same "$(ssh_to client2 "$sums")" "$written" client2

step 'a chunk server loses its power'
power_off chunk2
same "$(ssh_to client2 "$sums")" "$written" client2
on client2 'echo still >/mnt/shoal/after && sync /mnt/shoal/after'
on client1 'cat /mnt/shoal/after'
until_prints '^ *2 .* down' shoal servers

step 'it has power again, and its service starts by itself'
boot chunk2
until_prints '^ *2 .* up' shoal servers
until_prints '^health +good' shoal status

step 'a disk more in another machine, and the server is drained and removed'
shoal servers drain 2 && fail 'the last server that could hold a copy was drained'
on chunk1 "sh /vagrant/deploy/provision.sh --package /vagrant/package.tar.gz chunkserver disk2 ${address[chunk1]} $master b"
until_prints '^ *4 .* up' shoal servers
shoal servers drain 2
until_prints 'removed' shoal servers remove 2
until_prints 'was removed from the cluster' on chunk2 'journalctl --no-pager -u shoal-chunkserver@chunk2 | grep -F removed | tail -n 1'
power_off chunk2
until_prints '^health +good' shoal status
same "$(ssh_to client2 "$sums")" "$written" client2

step 'the master loses its power and starts again'
power_off master
boot master
until_prints still on client1 'cat /mnt/shoal/after'
same "$(ssh_to client1 "$sums")" "$written" client1
until_prints '^health +good' shoal status
until_prints 'all is well' shoal fsck
step 'the data of the master is lost, and restored from a backup'
on master 'shoal snapshot-metadata /srv/backup --master '$master:9320
on client1 'echo later >/mnt/shoal/later && sync /mnt/shoal/later'
on master 'shoal restore /srv/backup --data /var/lib/shoal/master' && fail 'a running master was written over'
on master 'systemctl stop shoal-master && rm -r /var/lib/shoal/master'
on master 'shoal restore /srv/backup --data /var/lib/shoal/master && chown -R shoal:shoal /var/lib/shoal/master && systemctl start shoal-master'
until_prints still on client1 'cat /mnt/shoal/after'
same "$(ssh_to client1 "$sums")" "$written" client1
same "$(ssh_to client2 "$sums")" "$written" client2
until_prints '^health +good' shoal status
until_prints 'all is well' shoal fsck
step 'all of it is as it should be'
