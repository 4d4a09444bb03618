#!/bin/bash
# Boots this machine's systemd as process 1 of namespaces of its own and runs one script inside, as root, as a unit.
#
#   tests/systemd-ns.sh DIR SCRIPT
#
# The root inside is an overlay: what the script installs, edits or breaks is gone afterwards and never touches the real
# root. /dev, /proc, /run and /tmp are fresh; the network is loopback only.
#   DIR           for the outcome: `out.log` (what SCRIPT printed), `systemd.log`, `rc`. It is /run/share inside.
#   BINDS         `SRC:DST ...`: folders or files of the machine to be seen inside, read-only; `SRC:DST:rw` for writing.
#   LOWER         the root to start from (default /); its own systemd is the one that boots.
#   NS_TIMEOUT    seconds until all of it is killed (default 300).
# Prints the script's output and exits with its status; 99 when systemd never came to it, 77 where this machine cannot.
set -euo pipefail

cannot() { echo "SKIPPED: systemd-ns: $*" >&2; exit 77; }

outside() {
  [ $# -eq 2 ] || { sed -n '2,13s/^# \?//p' "$0" >&2; exit 2; }
  dir=$(realpath -m "$1") script=$(realpath -e "$2") lower=$(realpath -e "${LOWER:-/}") binds=${BINDS:-}
  [ "$(id -u)" -eq 0 ] || cannot "needs root"
  [ -x "$lower/lib/systemd/systemd" ] || cannot "no systemd in $lower (apt-get install systemd dbus)"
  [ -x "$lower/usr/bin/dbus-daemon" ] || cannot "no dbus in $lower (apt-get install dbus)"
  grep -qw overlay /proc/filesystems || cannot "this kernel has no overlay file system"
  cgroup=$(awk '$3 == "cgroup2" { print $2; exit }' /proc/mounts)
  [ -n "$cgroup" ] || cannot "no cgroup2 is mounted"
  unshare --mount --pid --cgroup --ipc --uts --net --fork true 2>/dev/null || cannot "namespaces are not allowed here"
  group=$cgroup/systemd-ns-$$
  mkdir "$group" 2>/dev/null || cannot "$cgroup is read-only"
  mkdir -p "$dir/ns"
  rm -f "$dir"/{rc,out.log,systemd.log}
  : > "$dir/out.log"
  cp "$script" "$dir/script.sh"
  trap leave EXIT
  export dir lower binds
  # The shell joins the group before it makes the cgroup namespace: that group is then the root that systemd rules.
  (
    echo "$BASHPID" > "$group/cgroup.procs"
    exec timeout -k 2 -s KILL "${NS_TIMEOUT:-300}" \
      unshare --mount --pid --cgroup --ipc --uts --net --fork --kill-child "$BASH" "$0" --inside
  ) < /dev/null || true
  cat "$dir/out.log"
  if [ ! -s "$dir/rc" ]; then
    echo "systemd-ns: the script did not finish; the end of $dir/systemd.log:" >&2
    tail -n 20 "$dir/systemd.log" >&2 || true
    exit 99
  fi
  exit "$(cat "$dir/rc")"
}

# Removes the group and what systemd made below it, when the last process of it is gone.
leave() {
  rmdir "$dir/ns" 2>/dev/null || true
  for _ in 1 2 3 4 5 6 7 8 9 10; do
    find "$group" -depth -type d -exec rmdir {} + 2>/dev/null && return 0
    sleep 0.2
  done
  echo "systemd-ns: $group could not be removed" >&2
}

inside() {
  mount --make-rprivate /
  ip link set lo up 2>/dev/null || true
  local top=$dir/ns
  mount -t tmpfs -o size=2g,mode=755 tmpfs "$top"
  mkdir "$top"/{upper,work,root}
  mount -t overlay overlay -o "lowerdir=$lower,upperdir=$top/upper,workdir=$top/work" "$top/root"
  cd "$top/root"
  mkdir -p proc sys dev run tmp
  mount -t proc proc proc
  mount -t sysfs -o ro,nosuid,nodev,noexec sysfs sys
  mount -t cgroup2 cgroup2 sys/fs/cgroup
  mount -t tmpfs -o mode=755 tmpfs run
  mount -t tmpfs -o mode=1777 tmpfs tmp
  devices
  share
  quiet
  mkdir .outside
  pivot_root . .outside
  umount -l /.outside
  # As at a real boot; without it credentials, which are mounted for each service, are not seen by the service.
  mount --make-rshared /
  exec env -i container=systemd-ns PATH=/usr/sbin:/usr/bin:/sbin:/bin LANG=C.UTF-8 /lib/systemd/systemd \
    --unit=systemd-ns.target --log-target=console --log-level=notice --show-status=0 \
    < /dev/null > /run/share/systemd.log 2>&1
}

devices() {
  mount -t tmpfs -o mode=755 tmpfs dev
  mkdir dev/{pts,shm,mqueue}
  mount -t devpts -o newinstance,ptmxmode=0666,mode=620 devpts dev/pts
  mount -t tmpfs -o mode=1777 tmpfs dev/shm
  local name
  for name in null zero full random urandom tty; do
    : > "dev/$name"
    mount --bind "/dev/$name" "dev/$name"
  done
  ln -s pts/ptmx dev/ptmx
  ln -s /proc/self/fd dev/fd
  ln -s fd/0 dev/stdin
  ln -s fd/1 dev/stdout
  ln -s fd/2 dev/stderr
}

share() {
  mkdir run/share
  mount --bind "$dir" run/share
  local bind from to mode
  for bind in $binds; do
    IFS=: read -r from to mode <<< "$bind"
    to=./${to#/}
    if [ -d "$from" ]; then
      mkdir -p "$to"
    else
      mkdir -p "$(dirname "$to")"
      [ -e "$to" ] || : > "$to"
    fi
    mount --bind "$from" "$to"
    [ "$mode" = rw ] || mount -o remount,bind,ro "$to"
  done
}

# The units of the test, and silence for those that want hardware, a terminal or the network.
quiet() {
  local units=etc/systemd/system unit
  mkdir -p "$units"
  : > etc/fstab
  rm -f etc/machine-id
  : > etc/machine-id
  rm -f usr/sbin/policy-rc.d # images of containers forbid starting services: here it is the point
  for unit in systemd-udevd.service systemd-udevd-{control,kernel}.socket systemd-udev-trigger.service \
    systemd-{networkd,resolved,timesyncd,sysctl,modules-load,remount-fs,binfmt,firstboot,logind}.service \
    proc-sys-fs-binfmt_misc.automount sys-kernel-{debug,tracing,config}.mount dev-{hugepages,mqueue}.mount \
    getty.target console-getty.service apt-daily.timer apt-daily-upgrade.timer; do
    ln -sf /dev/null "$units/$unit"
  done
  printf '%s\n' '[Unit]' 'Requires=basic.target dbus.service systemd-ns.service' 'After=basic.target' 'AllowIsolate=yes' \
    > "$units/systemd-ns.target"
  printf '%s\n' '[Unit]' 'After=basic.target dbus.service' \
    '[Service]' 'Type=oneshot' 'TimeoutStartSec=infinity' 'Environment=HOME=/root' \
    'ExecStart=/bin/bash /run/share/script.sh' \
    'StandardOutput=append:/run/share/out.log' 'StandardError=append:/run/share/out.log' \
    'ExecStopPost=/bin/sh -c "echo $EXIT_STATUS > /run/share/rc; systemctl --no-block exit"' \
    > "$units/systemd-ns.service"
}

if [ "${1:-}" = --inside ]; then inside; else outside "$@"; fi
